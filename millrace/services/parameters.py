"""Values for the fields that a compiled document leaves open, checked before a service sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from pydantic import JsonValue

from millrace.errors import ConfigError, did_you_mean

__all__ = ["Kind", "OpenField", "given_values"]

Kind = Literal["text", "boolean", "integer", "number", "list", "mapping"]

_KINDS: Mapping[Kind, tuple[str, tuple[type, ...]]] = {
    "text": ("a text", (str,)),
    "boolean": ("true or false", (bool,)),
    "integer": ("a whole number", (int,)),
    "number": ("a number", (int, float)),
    "list": ("a list", (list,)),
    "mapping": ("a mapping", (dict,)),
}


class OpenField(NamedTuple):
    """A field that a document leaves open."""

    kind: Kind
    required: bool
    choices: tuple[JsonValue, ...] = ()
    """The allowed values; any when there are none."""


def given_values(fields: Mapping[str, OpenField], given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Values under the names that the document has for them.

    Args:
        fields: What the document leaves open, by its own names.
        given: By dotted name (`train.epochs`), by the document's own (`train_epochs`), or nested.

    Raises:
        ConfigError: On an unknown name, a value of the wrong type or one that is not allowed, or a missing one.
    """
    values = dict(_named(fields, given, ""))
    for name, field in fields.items():
        if field.required and name not in values:
            raise ConfigError(f"submit.parameters.{name}: the document asks for it and has no default: give a value")
    return values


def _named(
    fields: Mapping[str, OpenField], given: Mapping[str, JsonValue], prefix: str
) -> Iterator[tuple[str, JsonValue]]:
    for key, value in given.items():
        name = f"{prefix}{key}".replace(".", "_")
        if name in fields:
            yield name, _checked(name, value, fields[name])
        elif isinstance(value, dict) and value:
            yield from _named(fields, value, f"{name}_")
        else:
            told = did_you_mean(name, fields)
            raise ConfigError(
                f"submit.parameters.{prefix}{key}: the document leaves no such field open: {told}. "
                "Fields are left open when compiling: runtime=[train.epochs]"
            )


def _checked(name: str, value: JsonValue, field: OpenField) -> JsonValue:
    what, types = _KINDS[field.kind]
    if field.kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    good = isinstance(value, types) and (field.kind == "boolean" or not isinstance(value, bool))
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"submit.parameters.{name}: it must be {what} (given: {value!r})")
    if field.choices and value not in field.choices:
        told = did_you_mean(str(value), map(str, field.choices))
        raise ConfigError(f"submit.parameters.{name}: {value!r} is not allowed: {told}")
    return value
