"""One folder from those of several workers."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from millrace.errors import TaskFailedError

__all__ = ["add_tree", "hard_link", "symbolic_link"]

Link = Callable[[Path, Path], None]
"""Makes a file known under a second path; the second one is new."""


def hard_link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system can't."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def symbolic_link(source: Path, target: Path) -> None:
    """Point to a file, on whatever file system it is."""
    target.symlink_to(source.absolute())


def add_tree(target: Path, sources: Iterable[Path], link: Link = hard_link) -> None:
    """Put every file of some folders below one.

    Raises:
        TaskFailedError: When two have different files of one name.
    """
    for source in sources:
        for folder, _, names in os.walk(source):
            inside = target / Path(folder).relative_to(source)
            inside.mkdir(parents=True, exist_ok=True)
            for name in names:
                _add(Path(folder, name), inside / name, link)


def _add(source: Path, target: Path, link: Link) -> None:
    if not target.exists():
        link(source, target)
    elif not filecmp.cmp(source, target, shallow=False):
        raise TaskFailedError(f"two shares wrote different files called {target.name!r}")
