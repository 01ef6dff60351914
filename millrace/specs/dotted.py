"""Dotted names of nested values: how a search space, a study and an override name a parameter."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

__all__ = ["flatten", "merged"]


def flatten(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """All values by dotted name, groups as well as their members: `{"model": {...}, "model.units": 64}`."""
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        flat[f"{prefix}{name}"] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
    return flat


def merged(base: Mapping[str, JsonValue], dotted: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`base` with the values of `dotted` put over it; groups are copied, never changed."""
    result = dict(base)
    for name in sorted(dotted):  # a group comes before its members
        head, _, rest = name.partition(".")
        if rest:
            inner = result.get(head)
            result[head] = merged(inner if isinstance(inner, Mapping) else {}, {rest: dotted[name]})
        else:
            result[head] = dotted[name]
    return result
