"""Which bodies an endpoint reads, and how: by what its model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from millrace.components.deploy import image_payloads, text_payloads
from millrace.components.deploy.image_payloads import ExpectedImages
from millrace.components.deploy.payloads import InferRequest
from millrace.components.deploy.text_payloads import ExpectedTexts
from millrace.errors import MillraceError
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import ImageRecords, ModelCard, TabularRecords, TextRecords
from millrace.runtime.texts import Encoder

__all__ = ["Examples", "Reader", "Reading", "reading"]

Examples = NDArray[Any]
"""[N, *shape] of the shape and type of the model's records."""

Reader = Callable[[bytes, float], Examples]
"""From a body, and the end of its time on the monotonic clock; raises `PayloadError`."""


class Reading(NamedTuple):
    """What reads the bodies of each protocol."""

    kinds: Mapping[str, Reader]
    """Of invocations, by content type; `image/*` stands for all of images."""
    instances: Reader
    """Of TensorFlow Serving's protocol."""
    infer: Callable[[bytes, float], tuple[InferRequest, Examples]]
    """Of the Open Inference Protocol."""


def reading(card: ModelCard, limits: Limits, encode: Encoder | None) -> Reading:
    """What reads bodies for a model; `encode` makes tokens of texts."""
    match card.records:
        case ImageRecords():
            return _of_images(card.records, limits)
        case TabularRecords():
            return _of_rows(card.records, limits)
        case TextRecords():
            if encode is None:
                raise MillraceError("a model of texts is served with the encoder of its vocabulary")
            return _of_texts(card.records, limits, encode)


def _of_images(schema: ImageRecords, limits: Limits) -> Reading:
    def expected(deadline: float) -> ExpectedImages:
        return ExpectedImages(schema, limits, deadline)

    return Reading(
        kinds={
            "application/json": lambda body, end: image_payloads.from_instances(body, expected(end), bare=True),
            "text/csv": lambda body, end: image_payloads.from_csv(body, expected(end)),
            "application/x-npy": lambda body, end: image_payloads.from_npy(body, expected(end)),
            "image/*": lambda body, end: image_payloads.from_image(body, expected(end)),
        },
        instances=lambda body, end: image_payloads.from_instances(body, expected(end)),
        infer=lambda body, end: image_payloads.from_infer(body, expected(end)),
    )


def _of_rows(schema: TabularRecords, limits: Limits) -> Reading:
    from millrace.components.deploy import row_payloads  # brings a dataframe engine, which only rows need

    expected = row_payloads.ExpectedRows(schema, limits)
    return Reading(
        kinds={
            "application/json": lambda body, _: row_payloads.from_instances(body, expected, bare=True),
            "text/csv": lambda body, _: row_payloads.from_csv(body, expected),
        },
        instances=lambda body, _: row_payloads.from_instances(body, expected),
        infer=lambda body, _: row_payloads.from_infer(body, expected),
    )


def _of_texts(schema: TextRecords, limits: Limits, encode: Encoder) -> Reading:
    def expected(deadline: float) -> ExpectedTexts:
        return ExpectedTexts(schema, encode, limits, deadline)

    return Reading(
        kinds={
            "application/json": lambda body, end: text_payloads.from_instances(body, expected(end), bare=True),
            "text/csv": lambda body, end: text_payloads.from_csv(body, expected(end)),
            "text/plain": lambda body, end: text_payloads.from_text(body, expected(end)),
        },
        instances=lambda body, end: text_payloads.from_instances(body, expected(end)),
        infer=lambda body, end: text_payloads.from_infer(body, expected(end)),
    )
