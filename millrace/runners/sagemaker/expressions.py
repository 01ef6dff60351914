"""Expressions of a definition: `Get`, `Std:Join` and `Std:JsonGet`, with the types that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace.errors import TaskFailedError, did_you_mean

__all__ = ["Values", "evaluate", "is_expression", "references", "walk"]

_STEP = re.compile(r"Steps\.([A-Za-z0-9_-]+)(?:\.(.+))?", re.DOTALL)
_PIECE = re.compile(r"""\[\s*'([^']*)'\s*\]|\[\s*"([^"]*)"\s*\]|\[\s*(\d+)\s*\]|\.?([^.\[\]]+)""")
_FUNCTIONS = ("Get", "Std:Join", "Std:JsonGet")


@dataclass
class Values:
    """What expressions are evaluated with."""

    parameters: Mapping[str, Any]
    execution: Mapping[str, str]
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Properties of the steps that have ended well, as the service describes their jobs."""
    property_file: Callable[[str, str], str] = lambda step, name: ""
    """URI of a property file, by step and name."""
    read: Callable[[str], bytes] = lambda uri: b""
    """An object's content by its URI."""


def is_expression(item: Any) -> bool:
    """Whether something stands for a value that is known later."""
    return isinstance(item, Mapping) and len(item) == 1 and next(iter(item)) in _FUNCTIONS


def references(item: Any) -> set[str]:
    """Names of the steps that something refers to."""
    if isinstance(item, Mapping):
        if is_expression(item) and isinstance(item.get("Get"), str):
            found = _STEP.fullmatch(item["Get"])
            return {found[1]} if found else set()
        return set().union(*(references(value) for value in item.values()))
    if isinstance(item, list):
        return set().union(*(references(value) for value in item))
    return set()


def evaluate(item: Any, values: Values) -> Any:
    """Something with every expression in it replaced by its value.

    Raises:
        TaskFailedError: When a value is not there.
    """
    if isinstance(item, list):
        return [evaluate(value, values) for value in item]
    if not isinstance(item, Mapping):
        return item
    if not is_expression(item):
        return {key: evaluate(value, values) for key, value in item.items()}
    if "Get" in item:
        return _get(item["Get"], values)
    if "Std:Join" in item:
        join = item["Std:Join"]
        return str(join.get("On", "")).join(_text(evaluate(value, values)) for value in join["Values"])
    return _json_get(item["Std:JsonGet"], values)


def _get(path: str, values: Values) -> Any:
    kind, _, rest = path.partition(".")
    if kind == "Parameters":
        return _known(values.parameters, rest, path)
    if kind == "Execution":
        return _known(values.execution, rest, path)
    found = _STEP.fullmatch(path)
    if found is None or not found[2]:
        raise TaskFailedError(f"{path}: not a value of Parameters, Execution or Steps")
    if found[1] not in values.steps:
        raise TaskFailedError(f"{path}: step {found[1]!r} has not ended well")
    return walk(values.steps[found[1]], found[2], path)


def _known(there: Mapping[str, Any], name: str, path: str) -> Any:
    if name not in there:
        raise TaskFailedError(f"{path}: {did_you_mean(name, there)}")
    return there[name]


def walk(value: Any, path: str, told: str) -> Any:
    """Follow a path of names, indexes (`[0]`) and keys (`['name']`); a list is searched for the entry of that name.

    Raises:
        TaskFailedError: When it leads nowhere; its message begins with `told`.
    """
    path = path.removeprefix("$")
    end = 0
    for piece in _PIECE.finditer(path):
        if piece.start() != end:
            break
        end = piece.end()
        key = next(text for text in piece.groups() if text is not None)
        value = _inside(value, key, piece[3] is not None, told)
    if end != len(path):
        raise TaskFailedError(f"{told}: the path can't be read from {path[end:]!r} on")
    return value


def _inside(value: Any, key: str, index: bool, told: str) -> Any:
    if isinstance(value, list):
        if index:
            if int(key) < len(value):
                return value[int(key)]
            raise TaskFailedError(f"{told}: [{key}] is beyond the end, {len(value)} are there")
        for entry in value:
            if isinstance(entry, Mapping) and key in [entry[name] for name in entry if name.endswith("Name")]:
                return entry
        raise TaskFailedError(f"{told}: no entry is named {key!r}")
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        if index and int(key) < len(value):  # a list that is kept by the names of its entries
            return list(value.values())[int(key)]
        raise TaskFailedError(f"{told}: there is no {key!r}; {did_you_mean(key, map(str, value))}")
    raise TaskFailedError(f"{told}: {key!r} can't be taken from {_text(value)!r}")


def _json_get(given: Mapping[str, Any], values: Values) -> Any:
    if "S3Uri" in given:
        uri = str(evaluate(given["S3Uri"], values))
    else:
        step, _, name = str(given["PropertyFile"]["Get"]).removeprefix("Steps.").partition(".PropertyFiles.")
        if step not in values.steps:
            raise TaskFailedError(f"property file {name!r}: step {step!r} has not ended well")
        uri = values.property_file(step, name)
    path = str(evaluate(given["Path"], values))
    told = f"{path} of {uri}"
    try:
        content = json.loads(values.read(uri))
    except FileNotFoundError:
        raise TaskFailedError(f"{told}: the file is not there") from None
    except ValueError:
        raise TaskFailedError(f"{told}: the file is no JSON") from None
    return walk(content, path, told)


def _text(value: Any) -> str:
    """A value inside a text."""
    return value if isinstance(value, str) else json.dumps(value)
