"""Values of a definition's parameters: what was given, defaults, and what stands in for a role and a bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from millrace.errors import ConfigError, did_you_mean
from millrace.runners.sagemaker.definition import Definition
from millrace.targets.sagemaker import Arn

__all__ = ["parameter_values", "refuse_roles"]

_STAND_INS: Mapping[str, str] = {"role": "arn:aws:iam::123456789012:role/rehearsal", "bucket": "rehearsal"}
_ARN: TypeAdapter[str] = TypeAdapter(Arn)


def parameter_values(
    definitions: Sequence[Mapping[str, Any]], given: Mapping[str, Any], *, own_store: bool
) -> tuple[dict[str, Any], list[str]]:
    """Values by name, and what stands in for what nobody has given.

    Args:
        definitions: `Parameters` of the definition.
        given: Values that were given, by the definition's names.
        own_store: Whether the rehearsal has a store of its own, where any bucket will do.

    Raises:
        ConfigError: When a value is missing, unknown, of the wrong type or not allowed.
    """
    known = {str(item["Name"]): item for item in definitions}
    for name in given:
        if name not in known:
            raise ConfigError(f"parameters.{name}: the definition has no such parameter; {did_you_mean(name, known)}")
    values: dict[str, Any] = {}
    notes = []
    missing = []
    for name, item in known.items():
        if name in given:
            values[name] = _checked(name, item, given[name])
        elif "DefaultValue" in item:
            values[name] = _checked(name, item, item["DefaultValue"])
        elif name in _STAND_INS and item.get("Type") == "String" and (own_store or name != "bucket"):
            values[name] = _STAND_INS[name]
            notes.append(f"parameter {name} was not given: {values[name]} stands in")
        else:
            missing.append(f"{name} ({item.get('Type')})")
    if missing:
        first = missing[0].partition(" ")[0]
        raise ConfigError(f"parameters without a value: {', '.join(missing)}. Give them: parameters.{first}=VALUE")
    return values, notes


def refuse_roles(definition: Definition, values: Mapping[str, Any]) -> None:
    """Refuse values of parameters that are jobs' roles, and no ARN.

    Raises:
        ConfigError: When there is one.
    """
    roles = {
        step.arguments[key].get("Get")
        for step in definition.steps.values()
        for key in ("RoleArn", "ExecutionRoleArn")
        if isinstance(step.arguments.get(key), Mapping)
    }
    for name, value in values.items():
        if f"Parameters.{name}" in roles:
            try:
                _ARN.validate_python(value)
            except ValidationError:
                raise ConfigError(
                    f"parameters.{name}: jobs run with it as their role, and {value!r} is no ARN of one: "
                    "arn:aws:iam::ACCOUNT:role/NAME"
                ) from None


def _checked(name: str, item: Mapping[str, Any], value: Any) -> Any:
    kind = str(item.get("Type", "String"))
    found = _typed(kind, value)
    if found is None:
        raise ConfigError(f"parameters.{name}: not of type {kind}, given {value!r}")
    allowed = item.get("EnumValues")
    if allowed and found not in allowed:
        raise ConfigError(f"parameters.{name}: given {value!r}, allowed: {', '.join(map(str, allowed))}")
    return found


def _typed(kind: str, value: Any) -> Any:
    """A value of a type, or None."""
    if kind == "String":
        if isinstance(value, bool):
            return str(value).lower()
        return str(value) if isinstance(value, str | int | float) else None
    if kind == "Boolean":
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        if kind == "Integer":
            return int(value) if number == int(number) else None
    except (ValueError, OverflowError):
        return None
    return number if kind == "Float" else None
