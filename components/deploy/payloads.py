"""What bodies of requests have in common, whatever a model is about: instances, inference requests, JSON, CSV."""

from __future__ import annotations

import csv
import io
import math
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.errors import explain_validation
from millrace.runtime.limits import Limits

__all__ = [
    "NUMERIC",
    "OUTPUTS",
    "InferRequest",
    "PayloadError",
    "Tensor",
    "check_bytes",
    "check_count",
    "decoded",
    "instances_in",
    "parse_csv",
    "parse_infer",
    "parse_instances",
    "parse_json",
    "parse_request",
]

OUTPUTS = ("probabilities", "index", "label")
"""Names of the output tensors."""
NUMERIC = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
"""Types of the Open Inference Protocol for numbers."""

_UTF16 = "UTF-16 is given, UTF-8 is needed: save it so, or iconv -f UTF-16 -t UTF-8 FILE > NEW"


class PayloadError(Exception):
    """A body that can't be used: what was given, what is needed, and the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Instances(BaseModel):
    """A request of TensorFlow Serving's protocol."""

    model_config = ConfigDict(extra="forbid")

    instances: list[Any]
    signature_name: Literal["serving_default"] = "serving_default"


class Tensor(BaseModel):
    """An input of an inference request."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=4)
    datatype: str
    data: list[Any]


class _Wanted(BaseModel):
    name: str


class InferRequest(BaseModel):
    """An inference request of the Open Inference Protocol; fields of its extensions are passed over."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[_Wanted] = Field(default_factory=list)


def parse_instances(body: bytes, needed: str, is_one: Callable[[Any], bool], *, bare: bool) -> list[Any]:
    """The instances in a body of JSON.

    Args:
        body: JSON text.
        needed: An instance, for messages.
        is_one: Whether a JSON value is an instance.
        bare: Whether an array of instances, or one instance, will do as well as `{"instances": [...]}`.

    Raises:
        PayloadError: When it is anything else.
    """
    parsed = parse_json(body)
    if bare and isinstance(parsed, list):
        return parsed
    return [parsed] if bare and is_one(parsed) else instances_in(parsed, needed)


def instances_in(parsed: Any, needed: str) -> list[Any]:
    """The instances of `{"instances": [...]}`.

    Raises:
        PayloadError: When it is anything else; `needed` is told for an instance.
    """
    whole = f'{{"instances": [{needed}]}}'
    if not isinstance(parsed, dict):
        raise PayloadError(f"given {type(parsed).__name__}, needed: {whole}")
    try:
        return _Instances.model_validate(parsed).instances
    except ValidationError as error:
        raise PayloadError(f"{explain_validation(error)}; needed: {whole}") from error


def parse_infer(parsed: Any, name: str) -> InferRequest:
    """A request of the Open Inference Protocol with the one input of that name.

    Raises:
        PayloadError: When it is malformed or asks for what the model does not have.
    """
    request = parse_request(parsed)
    if [tensor.name for tensor in request.inputs] != [name]:
        given = ", ".join(repr(tensor.name) for tensor in request.inputs[:8]) or "none"
        raise PayloadError(f"inputs: given {given}, needed: one input {name!r}")
    return request


def parse_request(parsed: Any) -> InferRequest:
    """A request of the Open Inference Protocol with any inputs.

    Raises:
        PayloadError: When it is malformed or asks for outputs that there are not.
    """
    if not isinstance(parsed, dict):
        raise PayloadError(f'given {type(parsed).__name__}, needed: {{"inputs": [...]}}')
    try:
        request = InferRequest.model_validate(parsed)
    except ValidationError as error:
        raise PayloadError(explain_validation(error)) from error
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise PayloadError(f"unknown output {output.name!r}, allowed: {', '.join(OUTPUTS)}")
    return request


def check_bytes(tensor: Tensor) -> None:
    """See that a tensor of BYTES has elements, and as many as its shape says.

    Raises:
        PayloadError: When it has not.
    """
    if any(size < 1 for size in tensor.shape) or math.prod(tensor.shape) != len(tensor.data):
        raise PayloadError(f"{tensor.name}: shape {tensor.shape} does not hold {len(tensor.data)} BYTES elements")


def parse_json(body: bytes) -> Any:
    """JSON, without NaN and infinity.

    Raises:
        PayloadError: When it is none.
    """
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise PayloadError(f"not JSON: {error}") from error


def parse_csv(text: str, separator: str = ",") -> list[list[str]]:
    """The rows of CSV that are not blank.

    Raises:
        PayloadError: When it is none.
    """
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if row]
    except csv.Error as error:
        raise PayloadError(f"not CSV: {error}") from error


def decoded(body: bytes) -> str:
    """Text in UTF-8, without the mark that some programs begin it with.

    Raises:
        PayloadError: When it is in another encoding.
    """
    if b"\0" in body[:4]:
        raise PayloadError(_UTF16)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise PayloadError(_UTF16) from error
        line = body.count(b"\n", 0, error.start) + 1
        raise PayloadError(
            f"not UTF-8 in line {line} (byte 0x{body[error.start]:02X}): save it so, or for files of older Windows "
            "programs iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        ) from error


def check_count(count: int, limits: Limits) -> None:
    """Refuse none, and more than a request may have.

    Raises:
        PayloadError: With status 413 when there are too many.
    """
    if count < 1:
        raise PayloadError("no instances given, needed: at least 1")
    if count > limits.max_instances:
        raise PayloadError(f"{count} instances given, the limit is {limits.max_instances} a request", status=413)
