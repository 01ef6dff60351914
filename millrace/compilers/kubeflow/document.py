"""A compiled Kubeflow document: reading it without trusting it, and parsing it as strictly as the API server.

A document is a YAML stream of one pipeline spec and at most one platform spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from millrace.compilers.findings import Finding
from millrace.errors import ConfigError, DataError

__all__ = ["Document", "Path", "parse_document", "read_document", "shown"]

MAX_BYTES = 8 * 1024 * 1024
"""Larger documents are not read: a run's Workflow, larger still, must fit 1.5 MiB."""
MAX_DEPTH = 200
MAX_VALUES = 1_000_000
"""Values in a document, repeated ones (YAML aliases) counted each time."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A document's two parts, as plain data."""

    pipeline: dict[str, Any]
    """The pipeline spec (`pipelineInfo`, `root`, `components`, `deploymentSpec`, ...)."""
    platform: dict[str, Any] | None = None
    """The platform spec (`platforms`), where there is one."""


def parse_document(text: str) -> Document:
    """Read a document.

    Raises:
        DataError: When it is no YAML stream of one pipeline spec and at most one platform spec.
    """
    found = read_document(text)
    if isinstance(found, Document):
        return found
    raise DataError("\n".join(str(finding) for finding in found))


def read_document(text: str) -> Document | list[Finding]:
    """Like `parse_document`, but with findings instead of an error."""
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        return [Finding("error", "", f"the document has {size:,} bytes; more than {MAX_BYTES:,} can't run anywhere")]
    parts = _load(text)
    if isinstance(parts, Finding):
        return [parts]
    wrong = [finding for part in parts for finding in _no_json(part)]
    if wrong:
        return wrong
    platforms = [part for part in parts if "platforms" in part and "root" not in part]
    pipelines = [part for part in parts if part not in platforms]
    if len(pipelines) != 1 or len(platforms) > 1:
        return [
            Finding(
                "error",
                "",
                f"{len(pipelines)} pipeline specs and {len(platforms)} platform specs; "
                "a document has one pipeline spec and at most one platform spec",
            )
        ]
    return Document(pipelines[0], platforms[0] if platforms else None)


def _load(text: str) -> list[dict[str, Any]] | Finding:
    """The parts of a YAML stream that are not empty."""
    yaml = _yaml()
    try:
        if problem := _too_deep(text):
            return problem
        parts = [part for part in yaml.load_all(text, _loader()) if part is not None]
    except yaml.YAMLError as error:
        return Finding("error", "", f"this is no YAML: {' '.join(str(error).split())}")
    except (ValueError, RecursionError) as error:  # impossible dates and numbers; a mapping that is its own key
        return Finding("error", "", f"this YAML can't be read: {error}")
    for part in parts:
        if not isinstance(part, dict):
            return Finding("error", "", f"a part is a {type(part).__name__}; both specs are mappings")
    return parts


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError("documents of Kubeflow need PyYAML: pip install -e '.[kubeflow]'") from error
    return yaml


def _loader() -> Any:
    """A safe loader that refuses what the backend's loader refuses: a key given twice."""
    yaml = _yaml()
    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is given twice", node.start_mark)
        return safe.construct_mapping(self, node, deep)

    return type("Loader", (safe,), {"construct_mapping": construct_mapping})


def _too_deep(text: str) -> Finding | None:
    """libyaml's composer overflows the stack on deep nesting, its parser does not: so this comes first."""
    yaml = _yaml()
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return Finding("error", "", f"nested more than {MAX_DEPTH} deep, at line {event.start_mark.line + 1}")
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
    return None


def _no_json(part: Mapping[str, Any]) -> Iterator[Finding]:
    """What JSON has no form for; the backend turns each part into JSON first."""
    seen = 0
    waiting: list[tuple[Path, Any]] = [((), part)]
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values" if seen > MAX_VALUES else f"{MAX_DEPTH} levels"
            yield Finding("error", "", f"more than {limit} when its YAML aliases are written out")
            return
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    yield Finding("error", shown((*path, str(key))), f"the key {key!r} is no text: put it in quotes")
                waiting.append(((*path, str(key)), item))
        elif isinstance(value, list):
            waiting.extend(((*path, index), item) for index, item in enumerate(value))
        elif not isinstance(value, str | int | float | None):
            kind = type(value).__name__
            yield Finding("error", shown(path), f"{str(value)!r} is a {kind} in YAML: put it in quotes")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Finding("error", shown(path), f"{value} is no number that JSON knows")


def shown(path: Path) -> str:
    """A path as people write it; names with dots in brackets: `components.comp-a.args[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "." in part:
            text += f"[{part!r}]"
        else:
            text += f".{part}" if text else part
    return text
