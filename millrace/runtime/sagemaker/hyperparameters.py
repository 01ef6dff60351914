"""A component's parameters as SageMaker's hyperparameters: a text each, which people read and edit in Studio.

A text that is not JSON stays as it is (`adam`); everything else is JSON (`0.001`, `true`, `{"kind":"cnn"}`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

from pydantic import JsonValue

from millrace.specs.dotted import merged

__all__ = ["as_json", "decode", "encode", "parameters_of"]


def encode(value: JsonValue) -> str:
    """A value as text that `decode` turns back into it."""
    if isinstance(value, str) and decode(value) == value and value.isprintable():
        return value
    return as_json(value)


def as_json(value: JsonValue) -> str:
    """A value as JSON in one line, the same for the same value: the service takes no line ends of any kind."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def decode(text: str) -> JsonValue:
    """The value of a text."""
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    return value


def parameters_of(hyperparameters: Mapping[str, str], texts: Collection[str] = ()) -> dict[str, JsonValue]:
    """A component's parameters: top-level fields first, then single values by their dotted names.

    Args:
        hyperparameters: As they are in hyperparameters.json.
        texts: Names of those that are text even if they look like JSON: open fields of a string type.
    """
    values = {name: text if name in texts else decode(text) for name, text in hyperparameters.items()}
    whole = {name: value for name, value in values.items() if "." not in name}
    return merged(whole, {name: value for name, value in values.items() if "." in name})
