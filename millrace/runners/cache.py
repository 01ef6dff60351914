"""What decides on a task's outputs, as one key; equal keys need not run again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import millrace
from millrace.runtime.context import Share
from millrace.specs import ComponentSpec, Task

__all__ = ["task_key"]

_SOURCES = (".py", ".html", ".css", ".js", ".yaml", ".j2")


def task_key(task: Task, component: ComponentSpec, inputs: Mapping[str, Iterable[str]], share: Share) -> str:
    """SHA-256 of a task's component version and code, parameters, input contents and share.

    Args:
        task: The task.
        component: Its component.
        inputs: Digests of the input artifacts' contents, by port.
        share: The worker's share of the shards.
    """
    facts = {
        "component": component.name,
        "version": component.version,
        "code": _code_digest(component.main.partition(":")[0]),
        "parameters": task.parameters,
        "inputs": {port: list(digests) for port, digests in sorted(inputs.items())},
        "share": [share.index, share.count],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code_digest(module: str) -> str:
    """Digest of the sources beside a component's main module, and of those of the framework that they use."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    framework = Path(millrace.__file__).parent
    digest = hashlib.sha256()
    own = Path(spec.origin).parent
    for folder in (own, *(framework / name for name in ("runtime", "specs", "training"))):
        for file in _sources(folder, packages_only=folder == own and not spec.parent):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _sources(folder: Path, *, packages_only: bool) -> Iterator[Path]:
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
