"""Bodies of requests to token ids, each text checked for its size before it is cut into tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.components.deploy.payloads import (
    InferRequest,
    PayloadError,
    check_bytes,
    check_count,
    decoded,
    parse_csv,
    parse_infer,
    parse_instances,
    parse_json,
)
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import TextRecords
from millrace.runtime.texts import MAX_CHARACTERS, Encoder, padded

__all__ = ["INPUT", "ExpectedTexts", "Tokens", "from_csv", "from_infer", "from_instances", "from_text"]

Tokens = NDArray[np.int32]
"""int32 [N, max_seq_length]."""

INPUT = "text"
"""Name of the input tensor."""


@dataclass(frozen=True)
class ExpectedTexts:
    """What one request may hold, and how its texts become tokens."""

    schema: TextRecords
    encode: Encoder
    limits: Limits
    deadline: float = math.inf
    """On the monotonic clock; after it no further text is cut: nobody waits for the answer any more."""


def from_instances(body: bytes, expected: ExpectedTexts, *, bare: bool = False) -> Tokens:
    """Tokens of `{"instances": [...]}`: texts, or `{"text": ...}` each.

    Args:
        body: JSON text.
        expected: Limits of the endpoint, and its tokens.
        bare: Whether an array of instances, or one text, will do as well.

    Raises:
        PayloadError: When it is anything else.
    """
    instances = parse_instances(body, '"a text", ...', lambda parsed: isinstance(parsed, str), bare=bare)
    return _tokens(instances, "instance", expected)


def from_infer(body: bytes, expected: ExpectedTexts) -> tuple[InferRequest, Tokens]:
    """The request and tokens of an Open Inference Protocol body with one BYTES tensor of texts.

    Raises:
        PayloadError: When the body is malformed or asks for what the model does not have.
    """
    request = parse_infer(parse_json(body), INPUT)
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise PayloadError(f"{INPUT}: datatype {tensor.datatype!r}, allowed: BYTES")
    check_bytes(tensor)
    return request, _tokens(tensor.data, "element", expected)


def from_csv(body: bytes, expected: ExpectedTexts) -> Tokens:
    """Tokens of CSV: one row a text, without a header; texts with commas or lines are quoted.

    Raises:
        PayloadError: When a row has more than one value.
    """
    rows = parse_csv(decoded(body))
    for index, row in enumerate(rows):
        if len(row) > 1:
            raise PayloadError(f'row {index} has {len(row)} values, needed: one text a row, "quoted" if it has commas')
    return _tokens([row[0] for row in rows], "row", expected)


def from_text(body: bytes, expected: ExpectedTexts) -> Tokens:
    """Tokens of one plain text.

    Raises:
        PayloadError: When it is not UTF-8 or too long.
    """
    return _tokens([decoded(body)], "text", expected)


def _tokens(instances: Sequence[Any], what: str, expected: ExpectedTexts) -> Tokens:
    check_count(len(instances), expected.limits)
    return padded([_one(value, f"{what} {at}", expected) for at, value in enumerate(instances)], expected.schema)


def _one(value: Any, where: str, expected: ExpectedTexts) -> list[int]:
    if isinstance(value, dict) and set(value) == {INPUT}:
        value = value[INPUT]
    if not isinstance(value, str):
        given = "an object with other keys" if isinstance(value, dict) else type(value).__name__
        raise PayloadError(f'{where}: given {given}, needed: a text, or {{"{INPUT}": "..."}}')
    if len(value) > MAX_CHARACTERS:
        raise PayloadError(f"{where} has {len(value)} characters, the limit is {MAX_CHARACTERS}", status=413)
    if time.monotonic() > expected.deadline:
        raise PayloadError(f"{where}: no time left for it; send fewer texts in one request", status=504)
    return expected.encode([value])[0]
