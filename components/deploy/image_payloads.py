"""Bodies of requests to images, each checked for size and shape before memory is spent on it."""

from __future__ import annotations

import base64
import binascii
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.components.deploy.payloads import (
    NUMERIC,
    InferRequest,
    PayloadError,
    Tensor,
    check_bytes,
    check_count,
    instances_in,
    parse_infer,
    parse_json,
)
from millrace.runtime.images import ImageRejected, decode_image
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import ImageRecords

__all__ = ["INPUT", "ExpectedImages", "Images", "from_csv", "from_image", "from_infer", "from_instances", "from_npy"]

Images = NDArray[np.uint8]
"""uint8 [N, H, W, C]."""

INPUT = "image"
"""Name of the input tensor."""


@dataclass(frozen=True)
class ExpectedImages:
    """What one request may hold."""

    schema: ImageRecords
    limits: Limits
    deadline: float = math.inf
    """On the monotonic clock; after it no further image is decoded: nobody waits for the answer any more."""


def from_instances(body: bytes, expected: ExpectedImages, *, bare: bool = False) -> Images:
    """Images of `{"instances": [...]}`: arrays of pixels or `{"b64": ...}` with an encoded image.

    Args:
        body: JSON text.
        expected: What pictures the model takes, and limits of the endpoint.
        bare: Whether an array of instances, or of one image's pixels, will do as well.

    Raises:
        PayloadError: When it is anything else.
    """
    parsed = _parse(body, expected)
    is_bare = bare and isinstance(parsed, list)
    if is_bare and not _encoded(parsed):
        return _to_images(_numbers(parsed, "the array"), expected, single=True)
    instances = parsed if is_bare else instances_in(parsed, "...")
    check_count(len(instances), expected.limits)
    if not _encoded(instances):
        return _to_images(_numbers(instances, "instances"), expected)
    return np.concatenate([_instance(one, index, expected) for index, one in enumerate(instances)])


def from_infer(body: bytes, expected: ExpectedImages) -> tuple[InferRequest, Images]:
    """The request and images of an Open Inference Protocol body.

    Numeric tensors hold whole numbers from 0 to 255; BYTES tensors hold encoded images in base64.

    Raises:
        PayloadError: When the body is malformed or asks for what the model does not have.
    """
    request = parse_infer(_parse(body, expected), INPUT)
    return request, _from_tensor(request.inputs[0], expected)


def from_image(body: bytes, expected: ExpectedImages) -> Images:
    """One encoded image, brought to the model's size as preprocessing does.

    Raises:
        PayloadError: When it is not an image, is damaged or has too many pixels.
    """
    try:
        return decode_image(body, expected.schema, max_pixels=expected.limits.max_pixels)[np.newaxis]
    except ImageRejected as error:
        raise PayloadError(f"the image can't be read: {error}") from error


def from_csv(body: bytes, expected: ExpectedImages) -> Images:
    """Images of CSV: one row an image, its pixels in row-major height, width, channel order.

    Raises:
        PayloadError: When a row has another number of values, or one is not a pixel.
    """
    rows = [line for line in body.splitlines() if line.strip()]
    check_count(len(rows), expected.limits)
    try:
        text = b"\n".join(rows).decode()
        values = np.loadtxt(io.StringIO(text), delimiter=",", comments=None, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise PayloadError(f"CSV needs rows of {_pixels(expected.schema)} numbers and no header: {error}") from error
    return _to_images(values, expected)


def from_npy(body: bytes, expected: ExpectedImages) -> Images:
    """Images of a NumPy .npy file; its header is compared with its size before anything is allocated.

    Raises:
        PayloadError: When it is not such a file, holds objects, or is not of the model's shape.
    """
    stream = io.BytesIO(body)
    try:
        shape, fortran, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # the header is Python source: its parser may raise nearly anything
        raise PayloadError(f"not a .npy file of version 1 or 2: {error}") from error
    if dtype.kind not in "iuf" or dtype.subdtype is not None:
        raise PayloadError(f"the .npy file holds {dtype}, needed: integers or floats")
    given = len(body) - stream.tell()
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != given:
        raise PayloadError(f"the .npy header says {dtype} {list(shape)}, {given} bytes of data follow")
    values = np.frombuffer(body, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
    return _to_images(values, expected, single=True)


_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _parse(body: bytes, expected: ExpectedImages) -> Any:
    """JSON, unless it has more values or brackets than any request that the model could answer."""
    values = expected.limits.max_instances * _pixels(expected.schema) + 1000
    if max(body.count(b","), body.count(b"["), body.count(b"{")) > values:
        raise PayloadError(f"the JSON holds more than {values} values or arrays, the most that is needed", status=413)
    return parse_json(body)


def _encoded(instances: Sequence[Any]) -> bool:
    return any(isinstance(one, dict) for one in instances)


def _instance(value: Any, index: int, expected: ExpectedImages) -> Images:
    where = f"instance {index}"
    if isinstance(value, dict) and set(value) == {INPUT}:
        value = value[INPUT]
    if not isinstance(value, dict):
        return _to_images(_numbers([value], where), expected)
    if set(value) != {"b64"}:
        given = ", ".join(repr(key) for key in list(value)[:8]) or "no keys"
        raise PayloadError(f'{where}: given an object with {given}, needed: {{"b64": "..."}} or an array of pixels')
    return _from_base64(value["b64"], where, expected)


def _from_tensor(tensor: Tensor, expected: ExpectedImages) -> Images:
    if tensor.datatype == "BYTES":
        check_bytes(tensor)
        check_count(len(tensor.data), expected.limits)
        images = (_from_base64(one, f"element {at}", expected) for at, one in enumerate(tensor.data))
        return np.concatenate(list(images))
    if tensor.datatype not in NUMERIC:
        raise PayloadError(f"{INPUT}: datatype {tensor.datatype!r}, allowed: {', '.join((*NUMERIC, 'BYTES'))}")
    values = _numbers(tensor.data, INPUT)
    count = math.prod(tensor.shape)
    if any(size < 1 for size in tensor.shape) or count != values.size or values.ndim not in (1, len(tensor.shape)):
        raise PayloadError(f"{INPUT}: shape {tensor.shape} given with data of shape {list(values.shape)}")
    return _to_images(values.reshape(tensor.shape), expected)


def _from_base64(text: object, where: str, expected: ExpectedImages) -> Images:
    if not isinstance(text, str):
        raise PayloadError(f"{where}: given {type(text).__name__}, needed: an encoded image as a base64 string")
    if time.monotonic() > expected.deadline:
        raise PayloadError(f"{where}: no time left to decode it; send fewer images in one request", status=504)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PayloadError(f"{where}: not base64: {error}") from error
    try:
        return from_image(data, expected)
    except PayloadError as error:
        raise PayloadError(f"{where}: {error}") from error


def _numbers(values: list[Any], where: str) -> NDArray[np.float64]:
    try:
        # float64 from the start: a guessed type could be strings as long as the longest of them
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition(". ")[0][:200]
        raise PayloadError(f"{where}: not an array of numbers of one shape: {reason}") from error


def _to_images(values: NDArray[Any], expected: ExpectedImages, *, single: bool = False) -> Images:
    schema = expected.schema
    height, width, channels = schema.height, schema.width, schema.channels
    shapes = [(height, width, channels), (height * width * channels,)]
    if channels == 1:
        shapes.append((height, width))
    if values.shape[1:] not in shapes:
        if not single or values.shape not in shapes:
            needed = " or ".join(str(["N", *shape]).replace("'", "") for shape in shapes)
            raise PayloadError(f"given an array of shape {list(values.shape)}, needed: {needed}")
        values = values[np.newaxis]
    check_count(len(values), expected.limits)
    if values.dtype != np.uint8:
        wrong = ~((values >= 0) & (values <= 255) & (values == np.trunc(values)))
        if wrong.any():
            first = values[wrong].flat[0]
            raise PayloadError(f"pixels are whole numbers from 0 to 255, given {first:g}; don't scale them beforehand")
    return np.ascontiguousarray(values.reshape(-1, height, width, channels), dtype=np.uint8)


def _pixels(schema: ImageRecords) -> int:
    return schema.height * schema.width * schema.channels
