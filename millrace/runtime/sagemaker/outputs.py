"""From what a component made to the folders that SageMaker stores when the job is over.

It stores whatever is in them, also after a failure, and follows no symbolic links: so they stay empty until
everything is made, and hold files and folders only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from millrace.errors import ConfigError, TaskFailedError
from millrace.runtime.publish import publish
from millrace.runtime.sagemaker.inputs import EMPTY

__all__ = ["check_writable", "store"]


def check_writable(folders: Iterable[Path]) -> None:
    """Make folders and refuse those that can't be written to, before hours are spent.

    Raises:
        ConfigError: Telling what to do.
    """
    for folder in folders:
        with contextlib.suppress(OSError):  # it is said below
            folder.mkdir(parents=True, exist_ok=True)
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise ConfigError(
                f"user {os.getuid()} of this container may not write to {folder}: SageMaker makes its folders for "
                "root; push the image with `millrace build push=... target=sagemaker`, which makes one that runs as "
                "root, or end an image of your own with `USER root`"
            )


def store(made: Mapping[Path, Path], *, marked: Collection[Path] = ()) -> None:
    """Move what was made into the folders that SageMaker stores, all of it or nothing.

    Args:
        made: Folder of SageMaker's, and the file or folder whose contents belong there.
        marked: Those of the folders that get a mark when they would be empty.

    Raises:
        TaskFailedError: When something made can't be stored.
        OSError: When there is no room, or no right to write.
    """
    for source in made.values():
        _replace_links(source)
    with _empty_unless_done(made):
        for folder, source in made.items():
            for entry in sorted(source.iterdir()) if source.is_dir() else [source]:
                publish(entry, folder / entry.name)
            if folder in marked and not any(folder.iterdir()):
                (folder / EMPTY).touch()


@contextlib.contextmanager
def _empty_unless_done(folders: Iterable[Path]) -> Iterator[None]:
    chosen = list(folders)
    try:
        _clear(chosen)
        yield
    except BaseException:
        _clear(chosen)
        raise


def _clear(folders: Iterable[Path]) -> None:
    """Empty folders, which themselves may be mounts."""
    for folder in folders:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _replace_links(source: Path) -> None:
    """Put copies in place of symbolic links to files."""
    for folder, subfolders, names in os.walk(source):
        for name in (*subfolders, *names):
            path = Path(folder, name)
            if not path.is_symlink():
                continue
            if not path.is_file():
                what = "a folder" if path.is_dir() else "nothing"
                raise TaskFailedError(
                    f"the output {source.name!r} holds a link to {what}, {path.relative_to(source)}, and SageMaker "
                    "stores no links: write a file in its place"
                )
            copy = path.with_name(f".{name}.copy")
            shutil.copyfile(path, copy)
            copy.replace(path)
