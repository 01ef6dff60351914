"""What parameters are when nobody sets them, as their JSON schema tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["usual_values"]


def usual_values(schema: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of parameters, as nested as the values: of a union, those of the member that was chosen.

    Args:
        schema: That pydantic made of the parameters.
        values: The parameters.

    Returns:
        Without what has no default.
    """
    return _members(schema, schema.get("$defs", {}), values, {})


def _members(
    schema: Mapping[str, Any], known: Mapping[str, Any], values: Mapping[str, Any], above: Mapping[str, Any]
) -> dict[str, Any]:
    """Defaults by name: those that the object's own default tells, else those of its class."""
    fields = schema.get("properties", {})
    others = schema.get("additionalProperties")
    usual = {}
    for name, value in values.items():
        field = fields.get(name, others if isinstance(others, Mapping) else {})
        found = _usual(field, known, value, above.get(name, field.get("default")))
        if name in above or "default" in field or isinstance(found, Mapping):
            usual[name] = found
    return usual


def _usual(field: Mapping[str, Any], known: Mapping[str, Any], value: Any, default: Any) -> Any:
    chosen = _chosen(field, known, value) if isinstance(value, Mapping) else None
    if chosen is None:
        return default
    above = default if isinstance(default, Mapping) else {}
    if above.get("kind") == value.get("kind"):
        return _members(chosen, known, value, above)
    usual = {name: one for name, one in _members(chosen, known, value, {}).items() if name != "kind"}
    return usual | ({"kind": above["kind"]} if "kind" in above else {})


def _chosen(field: Mapping[str, Any], known: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the object that a value is."""
    if "$ref" in field:
        return _chosen(known[field["$ref"].rpartition("/")[2]], known, value)
    if "discriminator" in field:
        told = field["discriminator"]
        reference = told["mapping"].get(value.get(told["propertyName"]))
        return None if reference is None else _chosen({"$ref": reference}, known, value)
    if "properties" in field or isinstance(field.get("additionalProperties"), Mapping):
        return field
    for choice in (*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())):
        if (found := _chosen(choice, known, value)) is not None:
            return found
    return None
