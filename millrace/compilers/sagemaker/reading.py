"""Reading a pipeline definition without trusting it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.limits import DEFINITION_CHARACTERS

__all__ = ["read_definition"]

_MAX_DEPTH = 300
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class _RefusedError(ValueError):
    """What JSON text may hold and a definition may not."""


def read_definition(text: str) -> dict[str, Any] | list[Finding]:
    """The definition, or why there is none."""
    if len(text) > DEFINITION_CHARACTERS:
        told = (
            f"the definition has {len(text):,} characters; SageMaker takes {DEFINITION_CHARACTERS:,}, from S3, too: "
            "divide the pipeline, or put large values into inputs"
        )
        return [Finding("error", "", told)]
    if _depth(text) > _MAX_DEPTH:
        return [Finding("error", "", f"nested more than {_MAX_DEPTH} deep")]
    try:
        found = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except _RefusedError as error:
        return [Finding("error", "", str(error))]
    except (ValueError, RecursionError) as error:
        return [Finding("error", "", f"this is no JSON: {error}")]
    if not isinstance(found, dict):
        return [Finding("error", "", f"a definition is a JSON object, this is a {type(found).__name__}")]
    wrong = list(_too_large(found))
    return wrong or found


def _depth(text: str) -> int:
    """How deep brackets are nested: the parser would fail without saying where."""
    depth = deepest = 0
    for character in _STRINGS.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            where = next((f" in {value!r}" for name, value in pairs if name == "Name" and isinstance(value, str)), "")
            raise _RefusedError(f"the key {key!r} is given twice{where}: only the last would count; take one out")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise _RefusedError(f"{name} is no number that JSON knows: give a finite one")


def _too_large(value: Any) -> Iterator[Finding]:
    """Numbers such as 1e999, which JSON text can hold and no machine can."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _too_large(item)
    elif isinstance(value, list):
        for item in value:
            yield from _too_large(item)
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        yield Finding("error", "", "a number is too large for any machine: give a finite one")
