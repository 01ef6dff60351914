"""Condition steps: whether their conditions hold."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.expressions import Values, evaluate

__all__ = ["TYPES", "condition_holds"]

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
TYPES = (*_COMPARISONS, "In", "Not", "Or", "And")
"""Types of conditions."""


def condition_holds(condition: Mapping[str, Any], values: Values) -> bool:
    """Whether a condition holds.

    Raises:
        TaskFailedError: When a value is not there, or two can't be compared.
    """
    kind = condition["Type"]
    if kind in _COMPARISONS:
        left, right = evaluate(condition["LeftValue"], values), evaluate(condition["RightValue"], values)
        _comparable(left, right, kind)
        return _COMPARISONS[kind](left, right)
    if kind == "In":
        query, among = evaluate(condition["QueryValue"], values), evaluate(condition["Values"], values)
        for value in among:
            _comparable(query, value, kind)
        return query in among
    if kind == "Not":
        return not condition_holds(condition.get("Condition") or condition["Expression"], values)
    inner = [condition_holds(item, values) for item in condition["Conditions"]]
    return any(inner) if kind == "Or" else all(inner)


def _comparable(left: Any, right: Any, kind: str) -> None:
    kinds = {_kind(left), _kind(right)}
    ordered = kind not in ("Equals", "In")
    if len(kinds) > 1 or (ordered and kinds != {"number"}):
        wanted = "numbers" if ordered else "values of one type"
        raise TaskFailedError(
            f"{kind} compares {wanted}, given {left!r} ({_kind(left)}) and {right!r} ({_kind(right)})"
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__
