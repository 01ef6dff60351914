"""Conditions and selectors of a document: the part of CEL that they are written in.

`inputs.parameter_values['x'] == 'a' && !(int(inputs.parameter_values['n']) > 3)`; `parseJson(string_value)["a"]`.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.kubeflow.values import canonical, kind_of, text_of

__all__ = ["check_expression", "condition_holds", "select"]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.\d*(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>&&|\|\||[=!<>]=|[<>!()\[\].,?:+*/%-]))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_LEVELS: tuple[tuple[str, ...], ...] = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"))
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Int(int):
    """An integer of CEL, as opposed to its double: they don't add up."""


@dataclass(frozen=True)
class _Node:
    kind: str
    value: Any = None
    parts: tuple[_Node, ...] = ()


def condition_holds(expression: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a condition on a task's input parameters holds.

    Raises:
        TaskFailedError: When the backend could not tell.
    """
    result = _evaluate(expression, {"inputs": {"parameter_values": dict(parameters)}})
    if not isinstance(result, bool):
        raise TaskFailedError(f"the backend refuses the condition {expression!r}: it gives {result!r}, not a bool")
    return result


def select(expression: str, value: Any) -> Any:
    """The part of a value that a selector chooses.

    Raises:
        TaskFailedError: When there is none.
    """
    fields = {
        "string": "string_value",
        "number": "number_value",
        "bool": "bool_value",
        "list": "list_value",
        "struct": "struct_value",
        "null": "null_value",
    }
    return canonical(_evaluate(expression, {fields[kind_of(value)]: value, "string_value": text_of(value)}))


def check_expression(expression: str) -> str | None:
    """Why an expression can't be evaluated here, or None."""
    try:
        _parse(expression)
    except ValueError as error:
        return f"{expression!r} is beyond the part of CEL that is rehearsed: {error}"
    return None


def _evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    try:
        return _value(_parse(expression), names)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        told = f"no such key: {error}" if isinstance(error, KeyError) else str(error)
        raise TaskFailedError(f"the backend refuses the expression {expression!r}: {told}") from None


def _parse(expression: str) -> _Node:
    tokens: list[tuple[str, str]] = []
    at = 0
    while expression[at:].strip():
        found = _TOKEN.match(expression, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"unexpected {expression[at:].strip()[:10]!r}")
        tokens.append((found.lastgroup, found[found.lastgroup]))
        at = found.end()
    reader = _Reader(tokens)
    node = reader.choice()
    if reader.tokens:
        raise ValueError(f"unexpected {reader.tokens[0][1]!r}")
    return node


class _Reader:
    """A recursive descent over tokens."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens

    def next_is(self, *values: str) -> bool:
        return bool(self.tokens) and self.tokens[0][0] != "text" and self.tokens[0][1] in values

    def take(self, *values: str) -> str:
        if not self.tokens:
            raise ValueError("it ends too early")
        if values and not self.next_is(*values):
            raise ValueError(f"unexpected {self.tokens[0][1]!r}")
        return self.tokens.pop(0)[1]

    def choice(self) -> _Node:
        condition = self.level(0)
        if not self.next_is("?"):
            return condition
        self.take("?")
        chosen = self.level(0)
        self.take(":")
        return _Node("choice", None, (condition, chosen, self.choice()))

    def level(self, depth: int) -> _Node:
        if depth == len(_LEVELS):
            return self.unary()
        left = self.level(depth + 1)
        while self.next_is(*_LEVELS[depth]):
            sign = self.take()
            left = _Node("binary", sign, (left, self.level(depth + 1)))
        return left

    def unary(self) -> _Node:
        if self.next_is("!", "-"):
            return _Node("unary", self.take(), (self.unary(),))
        node = self.primary()
        while self.next_is(".", "["):
            if self.take() == ".":
                node = _Node("index", None, (node, _Node("constant", self.name())))
            else:
                node = _Node("index", None, (node, self.choice()))
                self.take("]")
        return node

    def name(self) -> str:
        if not self.tokens or self.tokens[0][0] != "name":
            raise ValueError("a name is missing after the point")
        return self.take()

    def primary(self) -> _Node:
        kind = self.tokens[0][0] if self.tokens else ""
        text = self.take()
        if kind == "number":
            return _Node("constant", _Int(text) if text.isdigit() else float(text))
        if kind == "text":
            return _Node("constant", re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1]))
        if kind == "name" and self.next_is("("):
            self.take("(")
            argument = self.choice()
            self.take(")")
            if text not in _FUNCTIONS:
                raise ValueError(f"the function {text!r} is unknown")
            return _Node("call", text, (argument,))
        if kind == "name":
            return _Node("constant", _WORDS[text]) if text in _WORDS else _Node("name", text)
        if text == "(":
            inner = self.choice()
            self.take(")")
            return inner
        raise ValueError(f"unexpected {text!r}")


def _value(node: _Node, names: Mapping[str, Any]) -> Any:
    if node.kind == "constant":
        return node.value
    if node.kind == "name":
        return names[node.value]
    if node.kind == "call":
        return _FUNCTIONS[node.value](_value(node.parts[0], names))
    if node.kind == "choice":
        return _value(node.parts[1 if _truth(_value(node.parts[0], names)) else 2], names)
    if node.kind == "index":
        holder, key = (_value(part, names) for part in node.parts)
        if isinstance(holder, list) and _name(key) in ("int", "double"):
            return holder[int(key)]
        if not isinstance(holder, dict):
            raise TypeError(f"a {_name(holder)} has no part {key!r}")
        return holder[key]
    if node.kind == "unary":
        value = _value(node.parts[0], names)
        if node.value == "!":
            return not _truth(value)
        _number(value)
        return type(value)(-value)
    return _binary(node, names)


def _binary(node: _Node, names: Mapping[str, Any]) -> Any:
    sign = node.value
    left = _value(node.parts[0], names)
    if sign in ("&&", "||"):
        if _truth(left) is (sign == "||"):
            return left
        return _truth(_value(node.parts[1], names))
    right = _value(node.parts[1], names)
    if sign in ("==", "!="):
        same = _name(left) == _name(right) or {_name(left), _name(right)} == {"int", "double"}
        return (same and left == right) is (sign == "==")
    if sign == "in":
        if not isinstance(right, list | dict):
            raise TypeError(f"no such overload: in {_name(right)}")
        return left in right
    if sign in _ORDERS:
        numbers = {_name(left), _name(right)} <= {"int", "double"}
        if not numbers and (_name(left) != _name(right) or _name(left) not in ("string", "bool")):
            raise TypeError(f"no such overload: {_name(left)} {sign} {_name(right)}")
        return _ORDERS[sign](left, right)
    if _name(left) != _name(right) or _name(left) not in ("int", "double", "string"):
        raise TypeError(f"no such overload: {_name(left)} {sign} {_name(right)}")
    if sign == "-":
        _number(left)
    return type(left)(left + right if sign == "+" else left - right)


def _name(value: Any) -> str:
    if isinstance(value, _Int):
        return "int"
    return "double" if kind_of(value) == "number" else kind_of(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"no such overload: a {_name(value)} is no bool")
    return value


def _number(value: Any) -> None:
    if _name(value) not in ("int", "double"):
        raise TypeError(f"no such overload: a {_name(value)} is no number")


def _to_int(value: Any) -> _Int:
    if isinstance(value, str):
        return _Int(value)
    _number(value)
    return _Int(value)


def _to_double(value: Any) -> float:
    if not isinstance(value, str):
        _number(value)
    return float(value)


def _to_bool(value: Any) -> bool:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    return _truth(value)


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"no such overload: parseJson({_name(value)})")
    return json.loads(value)


_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "int": _to_int,
    "double": _to_double,
    "string": text_of,
    "bool": _to_bool,
    "size": lambda value: _Int(len(value)),
    "parseJson": _parse_json,
}
