"""A JSON schema of parameters as a flat list of dotted names: for tables and documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from millrace.specs.frozen import Frozen

__all__ = ["ParameterRow", "parameter_rows"]


class ParameterRow(Frozen):
    """One row of a parameter table."""

    name: str
    """Dotted path."""
    kind: str
    """Type with its limits."""
    default: str
    """As JSON; empty when a value is required."""
    description: str


def parameter_rows(
    schema: Mapping[str, JsonValue], values: Mapping[str, JsonValue] | None = None
) -> list[ParameterRow]:
    """Rows for every leaf below a JSON schema that pydantic made.

    A union's variants are listed one after the other, each key with its variant: `model[cnn].filters`. Where
    a value may be a number or an object, the object's keys follow.

    Args:
        schema: Of a model.
        values: What takes the place of the model's defaults, where it is given.
    """
    return list(_rows(schema, schema.get("$defs", {}), "", values or {}))


def _rows(schema: Any, definitions: Any, prefix: str, values: Mapping[str, Any]) -> Iterator[ParameterRow]:
    required = schema.get("required", [])
    for name, item in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        resolved = _resolve(item, definitions)
        variants = resolved.get("discriminator", {}).get("mapping")
        value = values.get(name, item.get("default"))
        below = value if isinstance(value, Mapping) else {}
        if variants:
            told = str(below.get("kind", ""))
            yield ParameterRow(
                name=f"{path}.kind", kind=" | ".join(variants), default=told, description=item.get("description", "")
            )
            for tag, reference in variants.items():
                variant = dict(_named(reference, definitions))
                variant["properties"] = {key: field for key, field in variant["properties"].items() if key != "kind"}
                yield from _rows(variant, definitions, f"{path}[{tag}].", below if tag == told else {})
        elif "properties" in resolved:
            yield from _rows(resolved, definitions, f"{path}.", below)
        else:
            default = "" if name in required and name not in values else json.dumps(value)
            kind = _kind(resolved, definitions)
            yield ParameterRow(name=path, kind=kind, default=default, description=item.get("description", ""))
            for choice in resolved.get("anyOf", []):
                yield from _rows(_resolve(choice, definitions), definitions, f"{path}.", below)


def _resolve(item: Any, definitions: Any) -> Any:
    if "$ref" in item:
        return _named(item["$ref"], definitions)
    choices = [choice for choice in item.get("anyOf", []) if choice.get("type") != "null"]
    if len(choices) == 1 and "$ref" in choices[0]:
        return _named(choices[0]["$ref"], definitions)
    return item


def _named(reference: str, definitions: Any) -> Any:
    return definitions[reference.rpartition("/")[2]]


def _kind(item: Any, definitions: Any) -> str:
    if "enum" in item:
        return " | ".join(str(value) for value in item["enum"])
    if "const" in item:
        return str(item["const"])
    if "anyOf" in item:
        return " | ".join(_kind(_resolve(choice, definitions), definitions) for choice in item["anyOf"])
    kind = str(item.get("type", "any"))
    if "prefixItems" in item:
        return f"[{', '.join(_kind(_resolve(part, definitions), definitions) for part in item['prefixItems'])}]"
    if kind == "array":
        return f"list of {_kind(_resolve(item.get('items', {}), definitions), definitions)}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {item[key]:g}" for key, sign in signs.items() if key in item]
    return " ".join([kind, ", ".join(limits)]).strip()
