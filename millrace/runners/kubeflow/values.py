"""Parameter values as the backend holds, checks and writes them.

It keeps every value as a JSON value in which all numbers are 64-bit floats, and writes whole ones without a point.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from millrace.errors import TaskFailedError

__all__ = ["canonical", "check_literals", "check_type", "compact", "kind_of", "number_text", "parse_text", "text_of"]

_KINDS: Mapping[type, str] = {
    type(None): "null",
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
    list: "list",
    dict: "struct",
}
_ACCEPTED: Mapping[str, str] = {
    "STRING": "string",
    "NUMBER_INTEGER": "number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "bool",
    "LIST": "list",
    "STRUCT": "struct",
    "TASK_FINAL_STATUS": "struct",
    "TASK_CONFIG": "struct",
}
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def kind_of(value: Any) -> str:
    """The backend's word for a value's kind: string, number, bool, list, struct, null."""
    return _KINDS[type(value)]


def canonical(value: Any) -> Any:
    """The value after a way through the backend: numbers are 64-bit floats, whole ones are shown as integers."""
    if isinstance(value, bool) or not isinstance(value, int | float | list | tuple | dict):
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def compact(value: Any) -> str:
    """A value as JSON without blanks."""
    return json.dumps(canonical(value), separators=(",", ":"), ensure_ascii=False)


def text_of(value: Any) -> str:
    """A value as the text that replaces its placeholder, and that a STRING input gets of it."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return format(Decimal(repr(canonical(value))), "f")
    return compact(value)


def number_text(value: float) -> str:
    """A number in the shortest form: `1e-05`, `1.5e+06`, `0.1`, `3`."""
    value = canonical(value)
    if isinstance(value, int):
        return str(value)
    number = Decimal(repr(value))
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return format(number, "f")
    digits = "".join(map(str, number.normalize().as_tuple().digits))
    mantissa = f"{digits[0]}.{digits[1:]}".rstrip(".")
    return f"{'-' if value < 0 else ''}{mantissa}e{exponent:+03d}"


def parse_text(text: str, kind: str) -> Any:
    """An output parameter from the text in its file.

    Raises:
        ValueError: When the text is no value of that type.
    """
    stripped = text.strip()
    if kind == "STRING":
        return text
    if kind == "NUMBER_INTEGER" and re.fullmatch(r"[+-]?\d+", stripped):
        return canonical(int(stripped))
    if kind == "NUMBER_DOUBLE":
        number = float(stripped)
        if not math.isfinite(number):
            raise ValueError(f"{stripped} has no form in JSON")
        return canonical(number)
    if kind == "BOOLEAN" and stripped in _TRUE | _FALSE:
        return stripped in _TRUE
    if kind in ("LIST", "STRUCT"):
        value = json.loads(text)
        if kind_of(value) == _ACCEPTED[kind]:
            return canonical(value)
    raise ValueError(f"{text[:80]!r} is no {kind}")


def check_type(name: str, value: Any, kind: str, what: str = "input parameter") -> None:
    """Refuse a value that the backend refuses.

    Raises:
        TaskFailedError: When its type does not fit.
    """
    wanted = _ACCEPTED.get(kind)
    if wanted is None:
        raise TaskFailedError(f"the backend refuses {what} {name!r}: its type {kind} is unknown")
    if kind_of(value) != wanted:
        raise TaskFailedError(
            f"the backend refuses {what} {name!r}: type mismatch: {kind} is expected, given a {kind_of(value)}: "
            f"{compact(value)[:120]}"
        )


def check_literals(name: str, value: Any, definition: Mapping[str, Any], what: str = "input parameter") -> None:
    """Refuse a value that is not among the ones that the parameter allows.

    Raises:
        TaskFailedError: When it is not.
    """
    allowed = definition.get("literals", [])
    if allowed and canonical(value) not in canonical(allowed):
        raise TaskFailedError(
            f"the backend refuses {what} {name!r}: {compact(value)} is not allowed: "
            f"allowed: {', '.join(compact(item) for item in allowed)}"
        )
