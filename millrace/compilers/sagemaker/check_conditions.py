"""Rules on Condition and Fail steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_arguments import fields
from millrace.compilers.sagemaker.check_values import kind_of_value, variables
from millrace.compilers.sagemaker.shapes import shape
from millrace.compilers.sagemaker.view import View, error, quoted, unknown_keys, warning
from millrace.compilers.sagemaker.walk import is_variable
from millrace.errors import did_you_mean

__all__ = ["conditions", "failures"]

_ORDERED = ("GreaterThan", "GreaterThanOrEqualTo", "LessThan", "LessThanOrEqualTo")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "Equals": ("LeftValue", "RightValue"),
    **dict.fromkeys(_ORDERED, ("LeftValue", "RightValue")),
    "In": ("QueryValue", "Values"),
    "Not": ("Condition",),
    "Or": ("Conditions",),
}


def conditions(view: View) -> Iterator[Finding]:
    """Conditions compare what can be compared, and something hangs on them."""
    for step in view.of_kind("Condition"):
        if not isinstance(step.data.get("Arguments"), Mapping):
            continue
        known = ("Conditions", "IfSteps", "ElseSteps")
        yield from unknown_keys(step.arguments, known, step.at())
        for branch in known[1:]:
            if not isinstance(step.arguments.get(branch, []), list):
                yield error(step.at(branch), f"a list is needed, given {quoted(step.arguments[branch])}")
        if not step.arguments.get("IfSteps") and not step.arguments.get("ElseSteps"):
            yield warning(step.at(), "no step hangs on this condition: give IfSteps or ElseSteps")
        yield from _all(view, step.arguments.get("Conditions"), step.at("Conditions"))


def _all(view: View, given: Any, path: str) -> Iterator[Finding]:
    if not isinstance(given, list) or not given:
        yield error(path, f"a list of at least one condition is needed, given {quoted(given)}")
        return
    for index, one in enumerate(given):
        yield from _one(view, one, f"{path}[{index}]")


def _one(view: View, given: Any, path: str) -> Iterator[Finding]:
    kind = given.get("Type") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        told = did_you_mean(str(kind), _KEYS)
        yield error(f"{path}.Type", f"unknown kind of condition {quoted(kind)}: {told}")
        return
    yield from unknown_keys(given, ("Type", *_KEYS[kind]), path)
    missing = [key for key in _KEYS[kind] if given.get(key) is None]
    for key in missing:
        yield error(f"{path}.{key}", "a value is required")
    if missing:
        return
    if kind == "Not":
        yield from _one(view, given["Condition"], f"{path}.Condition")
    elif kind == "Or":
        yield from _all(view, given["Conditions"], f"{path}.Conditions")
    elif kind == "In":
        yield from _among(view, given, path)
    else:
        yield from _comparison(view, given, kind, path)


def _among(view: View, given: Mapping[str, Any], path: str) -> Iterator[Finding]:
    yield from _value(view, given["QueryValue"], f"{path}.QueryValue")
    values = given["Values"]
    if not isinstance(values, list) or not values:
        yield error(f"{path}.Values", f"a list of at least one value is needed, given {quoted(values)}")
        return
    for index, value in enumerate(values):
        yield from _value(view, value, f"{path}.Values[{index}]")


def _comparison(view: View, given: Mapping[str, Any], kind: str, path: str) -> Iterator[Finding]:
    problems = [
        *_value(view, given["LeftValue"], f"{path}.LeftValue"),
        *_value(view, given["RightValue"], f"{path}.RightValue"),
    ]
    yield from problems
    left, right = _kind(view, given["LeftValue"]), _kind(view, given["RightValue"])
    if problems or "any" in (left, right):
        return
    if left != right:
        told = f"a {left} is compared with a {right}, {quoted(given['LeftValue'])} with {quoted(given['RightValue'])}"
        yield error(path, f"{told}: give both the same type")
    elif kind in _ORDERED and left == "boolean":
        yield error(path, f"{kind} compares numbers, these are booleans: take Equals")


def _kind(view: View, value: Any) -> str:
    if isinstance(value, Mapping):
        kind = kind_of_value(view, value)
        return {"integer": "number", "float": "number", "string": "text"}.get(kind, kind)
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _value(view: View, value: Any, path: str) -> Iterator[Finding]:
    if isinstance(value, Mapping) and is_variable(value):
        yield from variables(view, value, path)
    elif not isinstance(value, str | int | float):
        yield error(path, f"a text, a number, a boolean or a variable is needed, given {quoted(value)}")


def failures(view: View) -> Iterator[Finding]:
    """A Fail step says why."""
    for step in view.of_kind("Fail"):
        if not isinstance(step.data.get("Arguments"), Mapping):
            continue
        yield from unknown_keys(step.arguments, ("ErrorMessage",), step.at())
        if "ErrorMessage" not in step.arguments:
            yield error(step.at("ErrorMessage"), "a value is required")
            continue
        yield from fields(view, step.arguments["ErrorMessage"], shape("String3072"), step.at("ErrorMessage"))
