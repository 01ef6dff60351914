"""A compiled document as the service sees it: its bytes, its name and the parameters that it leaves open."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from millrace.compilers.kubeflow.document import parse_document
from millrace.errors import ConfigError, DataError, did_you_mean, explain_os_error

__all__ = [
    "Document",
    "document_at",
    "given_parameters",
    "read_document",
    "task_names",
    "with_cache",
]


_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "STRING": ("a text", (str,)),
    "BOOLEAN": ("true or false", (bool,)),
    "NUMBER_INTEGER": ("a whole number", (int,)),
    "NUMBER_DOUBLE": ("a number", (int, float)),
    "LIST": ("a list", (list,)),
    "STRUCT": ("a mapping", (dict,)),
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
    values = dict(_named(document, given, ""))
    for name, declared in document.parameters.items():
        if name not in values and "defaultValue" not in declared and not declared.get("isOptional"):
            raise ConfigError(f"submit.parameters.{name}: the document asks for it and has no default: give a value")
    return values


def _named(document: Document, given: Mapping[str, JsonValue], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    for key, value in given.items():
        name = f"{prefix}{key}".replace(".", "_")
        if name in document.parameters:
            yield name, _checked(name, value, document.parameters[name])
        elif isinstance(value, dict) and value:
            yield from _named(document, value, f"{name}_")
        else:
            told = did_you_mean(name, document.parameters)
            raise ConfigError(
                f"submit.parameters.{prefix}{key}: the document leaves no such field open: {told}. "
                "Fields are left open when compiling: runtime=[train.epochs]"
            )


def _checked(name: str, value: JsonValue, declared: Mapping[str, Any]) -> JsonValue:
    kind = str(declared.get("parameterType", "STRING"))
    what, types = _KINDS.get(kind, ("a value", (object,)))
    if kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer():
        value = int(value)
    good = isinstance(value, types) and (kind == "BOOLEAN" or not isinstance(value, bool))
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"submit.parameters.{name}: it must be {what} (given: {value!r})")
    allowed = declared.get("literals") or []
    if allowed and value not in allowed:
        raise ConfigError(
            f"submit.parameters.{name}: {value!r} is not allowed: {did_you_mean(str(value), map(str, allowed))}"
        )
    return value
