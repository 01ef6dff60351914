"""A compiled document as the service sees it: its bytes, its name and the parameters that it leaves open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from millrace.compilers.kubeflow.document import parse_document
from millrace.errors import DataError, explain_os_error
from millrace.services.parameters import Kind, OpenField, given_values

__all__ = [
    "Document",
    "document_at",
    "given_parameters",
    "read_document",
    "task_names",
    "with_cache",
]


_KINDS: Mapping[str, Kind] = {
    "STRING": "text",
    "BOOLEAN": "boolean",
    "NUMBER_INTEGER": "integer",
    "NUMBER_DOUBLE": "number",
    "LIST": "list",
    "STRUCT": "mapping",
}


@dataclass(frozen=True)
class Document:
    """A compiled pipeline."""

    text: str
    """Exactly what was compiled."""
    spec: Mapping[str, Any]
    """The pipeline spec in it."""

    @property
    def name(self) -> str:
        """The pipeline's name in the UI."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def version(self) -> str:
        """Name of this version of the pipeline: the same document always has the same."""
        return f"{self.name[:100]}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """The pipeline's own parameters: type, default and allowed values by name."""
        found: Mapping[str, Mapping[str, Any]] = (
            self.spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        )
        return found


def read_document(text: str, source: str = "the document") -> Document:
    """Read a compiled document.

    Raises:
        DataError: When it is no pipeline of Kubeflow Pipelines v2.
    """
    try:
        spec = parse_document(text).pipeline
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    info = spec.get("pipelineInfo")
    if not isinstance(info, dict) or not info.get("name"):
        raise DataError(
            f"{source} holds no compiled pipeline (no pipelineInfo.name): write one with "
            "`millrace compile target=kubeflow`"
        )
    return Document(text, spec)


def document_at(path: Path) -> Document:
    """Read a compiled document from a file.

    Raises:
        DataError: When it can't be read.
    """
    try:
        return read_document(path.read_bytes().decode(), str(path))
    except OSError as error:
        raise DataError(f"document: {explain_os_error(error)}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8") from None


def with_cache(document: Document, cache: bool | None) -> Document:
    """The document with caching of every container switched; itself when nothing changes."""
    import yaml

    if cache is None:
        return document
    parsed = parse_document(document.text)
    changed = False
    for task in _containers(parsed.pipeline):
        if bool(task.get("cachingOptions", {}).get("enableCache")) is not cache:
            task["cachingOptions"] = {"enableCache": cache}
            changed = True
    parts = [part for part in (parsed.pipeline, parsed.platform) if part is not None]
    return read_document(yaml.safe_dump_all(parts, sort_keys=True, allow_unicode=True)) if changed else document


def task_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tasks that run a container, in the order of the document; those of loops and conditions too."""
    return tuple(dict.fromkeys(_leaves(spec, spec.get("root", {}))))


def _leaves(
    spec: Mapping[str, Any], component: Mapping[str, Any], above: frozenset[str] = frozenset()
) -> Iterator[str]:
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        reference = str(task.get("componentRef", {}).get("name"))
        inner = spec.get("components", {}).get(reference, {})
        if "dag" in inner and reference not in above:
            yield from _leaves(spec, inner, above | {reference})
        else:
            yield name


def _containers(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks that run a container."""
    components = spec.get("components", {})
    for component in (spec.get("root", {}), *components.values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "executorLabel" in components.get(task.get("componentRef", {}).get("name"), {}):
                yield task


def given_parameters(document: Document, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Values for a document's parameters, under the names that they have there.

    Args:
        document: The compiled document.
        given: By dotted name (`train.epochs`), by the document's own (`train_epochs`), or nested.

    Raises:
        ConfigError: On an unknown name, a value of the wrong type or one that is not allowed.
    """
    return given_values(
        {
            name: OpenField(
                _KINDS.get(str(declared.get("parameterType")), "text"),
                "defaultValue" not in declared and not declared.get("isOptional"),
                tuple(declared.get("literals") or ()),
            )
            for name, declared in document.parameters.items()
        },
        given,
    )
