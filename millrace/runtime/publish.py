"""Put what a task made where others look for it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

__all__ = ["publish"]


def publish(source: Path, target: Path) -> None:
    """Move a finished file or folder to its place, where it is seen whole or not at all.

    Args:
        source: What a task made; it is gone afterwards, unless the target is on another file system.
        target: Its place. What an earlier attempt left there is replaced.

    Raises:
        OSError: When there is no room, or no right to write.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        _move(source, partial)
        _remove(target)
        partial.replace(target)
    except BaseException:
        _remove(partial)
        raise


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
