"""Other values that a field of a configuration may take: found from its JSON schema, near ones first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, JsonValue, PydanticUserError

__all__ = ["FieldValue", "Kind", "Scalar", "alternatives", "choices_of", "kind_of", "same", "schema_of"]

Kind = Literal["string", "integer", "float", "boolean"]
Scalar = str | int | float | bool


@dataclass(frozen=True)
class FieldValue:
    """A field of a configuration, with its value and what is known of others."""

    name: str
    keys: tuple[str, ...]
    value: Scalar
    schema: Mapping[str, Any]
    """Its `description`, and `variants`: the JSON schemas of what it may hold."""


def alternatives(field: FieldValue) -> Iterator[JsonValue]:
    """Other values of the same kind that the field may take, near ones first."""
    guesses: Iterable[JsonValue] = choices_of(field)
    if not guesses:
        guesses = _GUESSES[type(field.value)](field)
    seen: list[JsonValue] = [field.value]
    for guess in guesses:
        if not any(same(guess, value) for value in seen):
            seen.append(guess)
            yield guess


def schema_of(config: BaseModel, keys: Sequence[str]) -> dict[str, Any]:
    """A field's JSON schema, with the alternatives that a union has as `variants`."""
    holder: Any = config
    model: type[BaseModel] = type(config)
    below = keys
    for index, key in enumerate(keys):
        if isinstance(holder, BaseModel):
            model, below = type(holder), keys[index:]
            holder = getattr(holder, key)
        else:
            holder = holder[key]
    try:
        whole = model.model_json_schema(by_alias=False)
    except PydanticUserError:  # a type that JSON schema can't describe: nothing is known of its limits
        whole = {}
    found: Any = whole.get("properties", {}).get(below[0], {})
    for _ in below[1:]:
        found = next((item["additionalProperties"] for item in _variants(found, whole) if _is_open_mapping(item)), {})
    return {"description": found.get("description", ""), "variants": list(_variants(found, whole))}


def kind_of(field: FieldValue) -> Kind:
    """The kind of value that a run form asks for."""
    if isinstance(field.value, bool):
        return "boolean"
    if isinstance(field.value, str):
        return "string"
    wide = any(variant.get("type") == "number" for variant in field.schema["variants"])
    return "float" if wide or isinstance(field.value, float) else "integer"


def choices_of(field: FieldValue) -> list[Any]:
    """All values of the same type that the field takes, when they are listed."""
    listed: list[Any] = []
    for variant in field.schema["variants"]:
        values = variant.get("enum", [variant["const"]] if "const" in variant else None)
        if values is not None:
            listed += [item for item in values if type(item) is type(field.value)]
        elif variant.get("type") not in ("null", "array", "object"):
            return []
    return [] if isinstance(field.value, bool) else list(dict.fromkeys(listed))


def _is_open_mapping(schema: Mapping[str, Any]) -> bool:
    return isinstance(schema.get("additionalProperties"), dict)


def _variants(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in schema:
        yield from _variants(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    elif inner := [item for group in ("anyOf", "oneOf", "allOf") for item in schema.get(group, ())]:
        for item in inner:
            yield from _variants(item, whole)
    else:
        yield dict(schema)


def same(one: object, other: object) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _numbers(field: FieldValue) -> Iterator[float]:
    """Neighbours, the limits, and what lies between."""
    old = float(field.value) if kind_of(field) == "float" else int(field.value)
    limits: dict[str, float] = {}
    for variant in field.schema["variants"]:
        limits |= {key: value for key, value in variant.items() if isinstance(value, int | float)}
    step = limits.get("multipleOf", 1)
    bounds = [limits[key] for key in ("minimum", "maximum") if key in limits]
    yield old + step
    yield old - step
    yield from bounds
    if kind_of(field) == "float":
        edges = [*bounds, *(limits[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in limits)]
        yield from (old / 2, old * 2, *((old + edge) / 2 for edge in edges))
    else:
        yield from (old * 2, old // 2)


def _texts(field: FieldValue) -> Iterator[str]:
    """Texts like the old one, so that patterns and formats are likely to take them."""
    old = str(field.value)
    yield f"{old}x"
    yield f"x{old}"
    yield f"{old}1"
    yield re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 1) % 10), old)
    yield re.sub(r"[a-z](?=[^a-z]*$)", lambda found: "b" if found[0] == "a" else "a", old)
    yield re.sub(r"[A-Z](?=[^A-Z]*$)", lambda found: "B" if found[0] == "A" else "A", old)
    yield old[:-1]
    yield from ("x", "1", "text", "a-b", "a_b", "a/b", "/x", "s3://bucket/x", "https://x.example.org", "module:name")


_GUESSES: Mapping[type, Callable[[FieldValue], Iterable[JsonValue]]] = {
    bool: lambda field: [not field.value],
    int: _numbers,
    float: _numbers,
    str: _texts,
}
