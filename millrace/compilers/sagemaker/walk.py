"""Ways through a pipeline definition: its steps, their fields, and what is known of a value before a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["every_field", "every_step", "is_variable", "pattern_of"]


def every_step(steps: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All steps, those under conditions, too."""
    for step in steps:
        yield step
        if step["Type"] == "Condition":
            for branch in ("IfSteps", "ElseSteps"):
                yield from every_step(step["Arguments"].get(branch, ()))


def every_field(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of all steps with their values; variables are values."""
    if isinstance(value, Mapping) and not is_variable(value):
        for name, item in value.items():
            yield name, item
            yield from every_field(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from every_field(item, key)


def is_variable(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is a value that only a run knows."""
    return len(value) == 1 and next(iter(value)) in ("Get", "Std:Join", "Std:JsonGet")


def pattern_of(value: Any, bucket: str = "*") -> str:
    """A text of which `*` is what only a run knows; `bucket` stands for the parameter of that name."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and "Std:Join" in value:
        joined = value["Std:Join"]
        text = str(joined["On"]).join(pattern_of(item, bucket) for item in joined["Values"])
        return re.sub(r"\*+", "*", text)
    if isinstance(value, Mapping) and value.get("Get") == "Parameters.bucket":
        return bucket
    return "*"
