"""The code that decides on what a task makes, as a digest."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import millrace

__all__ = ["PACKAGES", "code_digest"]

PACKAGES = ("data", "runtime", "specs", "targets", "training")
"""Of the framework, those that components use."""

_COMPONENT = re.compile(rb"\bmillrace\.components\.([a-z_0-9]+)")
_SOURCES = (".py", ".html", ".css", ".js", ".yaml", ".j2")


@functools.cache
def code_digest(module: str, packages: tuple[str, ...] = PACKAGES) -> str:
    """Digest of the sources beside a component's main module, and of those of the framework that they use.

    Components that these name, as `tune` names the one that it tunes, count as well.

    Args:
        module: The component's main module.
        packages: Of the framework.

    Returns:
        Hexadecimal SHA-256; empty when the module is not here.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    framework = Path(millrace.__file__).parent
    digest = hashlib.sha256()
    own = Path(spec.origin).parent
    sources = list(_sources(own, packages_only=not spec.parent))
    named = {name.decode() for file in sources for name in _COMPONENT.findall(file.read_bytes())}
    others = sorted(folder for name in named if (folder := framework / "components" / name).is_dir())
    for folder in (own, *others, *(framework / name for name in packages)):
        for file in sources if folder == own else _sources(folder):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _sources(folder: Path, *, packages_only: bool = False) -> Iterator[Path]:
    """Sources in a folder, in a fixed order, without what runs leave there.

    Args:
        folder: Of a package, or any folder with modules in it.
        packages_only: Take modules and packages alone; anything may lie beside a module that is in no package.
    """
    for inside, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__pycache__"))
            and not (packages_only and Path(inside) == folder and not Path(inside, name, "__init__.py").exists())
        )
        wanted = (".py",) if packages_only and Path(inside) == folder else _SOURCES
        yield from (Path(inside, name) for name in sorted(names) if name.endswith(wanted))
