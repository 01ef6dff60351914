"""From the folders that SageMaker has filled to the artifacts that a component takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from millrace.errors import ConfigError
from millrace.registry import AnyComponent
from millrace.runtime.sagemaker.archives import unpack
from millrace.runtime.task import GivenArtifact
from millrace.runtime.union import add_tree, symbolic_link
from millrace.specs import Port

__all__ = ["EMPTY", "Delivered", "artifacts"]

EMPTY = ".millrace-empty"
"""Stands for an empty folder: S3 has none, and SageMaker refuses an input below which there is no object."""

_NAME = re.compile(r"(?P<port>\w+)(\.(?P<number>\d+)|\+(?P<subfolder>[\w-]+))?")


class Delivered(NamedTuple):
    """An input of a processing job, or a channel of a training job."""

    name: str
    """`PORT`, `PORT.N` for ports that take many, or `PORT+SUBFOLDER` for a part of an artifact that comes apart."""
    path: Path
    uri: str = ""


class _Part(NamedTuple):
    delivered: Delivered
    number: int
    subfolder: str


def artifacts(
    task: str,
    component: AnyComponent,
    delivered: Iterable[Delivered],
    archives: Mapping[str, str],
    folder: Path,
) -> dict[str, tuple[GivenArtifact, ...]]:
    """What is given to each input of a component.

    Args:
        task: Name of the task, for messages.
        component: What takes them.
        delivered: What is there.
        archives: Inputs (or ports) that come as an archive, and the folder in it that is meant.
        folder: For what is unpacked or put together.

    Raises:
        ConfigError: When something is missing, or for nobody.
        DataError: When an archive can't be unpacked.
    """
    parts = _by_port(task, component, delivered)
    given: dict[str, tuple[GivenArtifact, ...]] = {}
    for port in component.spec.inputs:
        found = parts.get(port.name, [])
        if not found and not (port.optional or port.many):
            raise ConfigError(f"{task}.{port.name}: an artifact is required")
        plain = [part.delivered for part in found if not part.subfolder]
        joined = [part for part in found if part.subfolder]
        if joined:
            given[port.name] = (_joined(task, plain, joined, folder / port.name),)
        else:
            given[port.name] = tuple(_single(task, port, one, archives, folder) for one in plain)
    return given


def _by_port(task: str, component: AnyComponent, delivered: Iterable[Delivered]) -> dict[str, list[_Part]]:
    ports = {port.name for port in component.spec.inputs}
    parts: dict[str, list[_Part]] = {}
    for one in delivered:
        match = _NAME.fullmatch(one.name)
        if match is None or match["port"] not in ports:
            raise ConfigError(
                f"{task}: the component {component.spec.name!r} of this image has no input for {one.name!r}; "
                "compile the pipeline with the image's version of Millrace"
            )
        part = _Part(one, int(match["number"] or 0), match["subfolder"] or "")
        parts.setdefault(match["port"], []).append(part)
    for found in parts.values():
        found.sort(key=lambda part: (part.number, part.subfolder))
    return parts


def _joined(task: str, plain: Sequence[Delivered], parts: Sequence[_Part], whole: Path) -> GivenArtifact:
    """One folder of links to what came apart."""
    whole.mkdir(parents=True)
    for one in plain:
        if not one.path.is_dir():
            raise ConfigError(f"{task}.{one.name}: there is nothing at {one.path}")
        add_tree(whole, [one.path], symbolic_link)
    for part in parts:
        subfolder = whole / part.subfolder
        subfolder.mkdir(exist_ok=True)
        add_tree(subfolder, [part.delivered.path], symbolic_link)
    return GivenArtifact(path=whole, parts=tuple(one.uri for one in (*plain, *(p.delivered for p in parts)) if one.uri))


def _single(task: str, port: Port, one: Delivered, archives: Mapping[str, str], folder: Path) -> GivenArtifact:
    name = f"{task}.{one.name}"
    private = folder / one.name
    source = one.path
    subfolder = archives.get(one.name, archives.get(port.name))
    if subfolder is not None:
        source = _unpacked(name, one.path, private / "archive", subfolder)
    uri = one.uri if subfolder is None and "://" in one.uri else ""
    if port.artifact.suffix:
        return GivenArtifact(path=_only_file(name, source, port.artifact.suffix), uri=uri)
    if not source.is_dir():
        print(f"{name} is empty: there is nothing at {source}", flush=True)
        private.mkdir(parents=True)
        return GivenArtifact(path=private, uri=uri)
    if (source / EMPTY).exists():
        return GivenArtifact(path=_without_mark(source, private / "whole"), uri=uri)
    return GivenArtifact(path=source, uri=uri)


def _unpacked(name: str, source: Path, folder: Path, subfolder: str) -> Path:
    found = sorted(source.rglob("*.tar.gz")) if source.is_dir() else []
    if len(found) != 1:
        raise ConfigError(f"{name}: there must be one archive below {source}, found: {_names(found, source)}")
    inner = Path(subfolder)
    if inner.is_absolute() or ".." in inner.parts:
        raise ConfigError(f"--archive {name}: {subfolder!r} is no folder of an archive")
    unpack(found[0], folder)
    if not (folder / inner).is_dir():
        raise ConfigError(f"{name}: {found[0]} has no folder {subfolder!r}")
    return folder / inner


def _only_file(name: str, source: Path, suffix: str) -> Path:
    """The file of a one-file artifact; whoever made it may have had another name for it."""
    found = sorted(path for path in source.rglob(f"*{suffix}") if path.is_file()) if source.is_dir() else []
    if len(found) != 1:
        raise ConfigError(f"{name}: there must be one file *{suffix} below {source}, found: {_names(found, source)}")
    return found[0]


def _without_mark(source: Path, whole: Path) -> Path:
    whole.mkdir(parents=True)
    add_tree(whole, [source], symbolic_link)
    (whole / EMPTY).unlink()
    return whole


def _names(found: Sequence[Path], source: Path) -> str:
    return ", ".join(str(path.relative_to(source)) for path in found[:5]) or "nothing"
