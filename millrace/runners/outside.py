"""What parameters name outside the pipeline, as digests: files, models and artifacts of earlier runs, code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from millrace.compilers.refusals import locations
from millrace.errors import ConfigError
from millrace.registry import load_component
from millrace.runtime.code import code_digest
from millrace.runtime.storage import parse_source
from millrace.runtime.task import whole_result
from millrace.specs import ComponentSpec, Task
from millrace.specs.dotted import merged
from millrace.specs.earlier import RUN

__all__ = ["Place", "named_places", "outside_digests"]

_READ = (".keras", ".json", ".h5")
"""Ends of the files that are read of a folder with a model or weights in it."""


class Place(NamedTuple):
    """A location that parameters name."""

    name: str
    """Dotted."""
    value: str
    pinned: bool
    """Whether a `sha256` beside it says what is there."""
    of_content: bool
    """Whether there could be one: what is there is read as a whole, and not listed."""
    of_choice: bool = False
    """Whether it is one of those that a search chooses from."""


def named_places(component: ComponentSpec, values: Mapping[str, Any]) -> Iterator[Place]:
    """The locations that a task's parameters name, those of the trials of a search included.

    Args:
        component: With the schema.
        values: Parameters.
    """
    yield from _places(component, values, "")
    if "tuning" in component.delegates and (searched := _searched(values)) is not None:
        trial = values.get("trial") or {}
        yield from _places(searched, trial, "trial.")
        for name, choice in _choices(values):
            for place in _places(searched, merged(trial, {name: choice}), f"space.{name}={json.dumps(choice)}: "):
                yield place._replace(of_choice=True)


def outside_digests(task: Task, component: ComponentSpec, root: Path) -> dict[str, str]:
    """Digests of what a task's parameters name outside the pipeline, by dotted name.

    What a `sha256` beside it tells is left out, and so is what nobody knows before the task looks: folders that are
    listed, what is in a store, what is not there.

    Args:
        task: The task, with whole ids in `run:ID/TASK`.
        component: Its component.
        root: The runner's folder, with earlier runs.
    """
    found = {}
    for place in named_places(component, task.parameters):
        if (content := _content(place, root)) is not None:
            found[place.name] = content
    return found | dict(_code(component, task.parameters))


def _places(component: ComponentSpec, values: Mapping[str, Any], prefix: str) -> Iterator[Place]:
    for name, value in locations(component, values):
        beside = functools.reduce(lambda inside, part: inside[part], name.split(".")[:-1], values)
        yield Place(f"{prefix}{name}", value, bool(beside.get("sha256")), "sha256" in beside)


def _content(place: Place, root: Path) -> str | None:
    if match := RUN.fullmatch(place.value):
        return None if place.pinned else _of_run(root.absolute() / "runs" / match["id"] / "run.json", match["task"])
    if not place.of_content or place.value.startswith("arn:"):
        return None
    scheme, path = parse_source(place.value)
    try:
        if scheme == "file" and Path(path).is_dir():  # more of it is read than the digest beside it is of
            return _of_folder(Path(path))
        return None if scheme != "file" or place.pinned else _of_file(Path(path))
    except OSError:
        return None  # the task tells why


def _of_run(record: Path, task: str) -> str | None:
    """Digest of the outputs that a task of an earlier run has now: a later run may have made them anew."""
    try:
        result = whole_result(Path(json.loads(record.read_bytes())["tasks"][task]["directory"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if result is None else _of_json({port: made.digest for port, made in result.outputs.items()})


def _of_folder(folder: Path) -> str | None:
    files = sorted(file for file in folder.iterdir() if file.name.endswith(_READ) and file.is_file())
    return _of_json({file.name: _of_file(file) for file in files}) if files else None


def _of_file(file: Path) -> str:
    told = file.stat()
    return _digest(file, told.st_size, told.st_mtime_ns, told.st_ino)


@functools.cache
def _digest(file: Path, *_: int) -> str:
    """SHA-256 of a file, which is read once while its size, time and number stay the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_json(content: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code(component: ComponentSpec, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Digests of the user's own code that parameters name: a network, or the component that is searched."""
    trial = values
    if "tuning" in component.delegates and (searched := _searched(values)) is not None:
        yield "component", code_digest(searched.main.partition(":")[0])
        trial = values.get("trial") or {}
    chosen = [trial, *(merged(trial, {name: choice}) for name, choice in _choices(values))]
    functions = {one["model"].get("function") for one in chosen if isinstance(one.get("model"), Mapping)}
    for function in sorted(name for name in functions if isinstance(name, str)):
        yield function, _own_code(function.partition(":")[0])


def _own_code(module: str) -> str:
    try:
        return code_digest.__wrapped__(module, ())  # whoever edits it in a notebook wants the new one
    except Exception:  # finding it imports what it is in, which may fail in any way: the task tells
        return ""


def _searched(values: Mapping[str, Any]) -> ComponentSpec | None:
    try:
        return load_component(str(values.get("component"))).spec
    except ConfigError:
        return None


def _choices(values: Mapping[str, Any]) -> Iterator[tuple[str, JsonValue]]:
    """What a search chooses from, by the dotted name of the parameter."""
    for name, space in (values.get("space") or {}).items():
        if isinstance(space, Mapping):
            for choice in space.get("choices") or ():
                yield name, choice
