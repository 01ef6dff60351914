"""Keras models to LiteRT, in float32 and quantized; the same bytes each time."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from millrace.errors import TaskFailedError

__all__ = ["Scheme", "convert"]

Scheme = Literal["none", "dynamic", "float16", "int8"]


def convert(model: Any, scheme: Scheme, calibration: NDArray[Any] | None = None) -> bytes:
    """A Keras model as a LiteRT file.

    Args:
        model: Takes pixels of 0 to 255 as float32 [N, height, width, channels], tokens as int32 [N, length], or
            features as float32 [N, features].
        scheme: How to quantize.
        calibration: Images, uint8 [N, height, width, channels], or features, for int8 only. A model of images then
            takes uint8 pixels; an operation without an 8-bit form stays in float.

    Raises:
        TaskFailedError: When LiteRT lacks an operation that the model needs.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if scheme != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is not None:
        converter.representative_dataset = lambda: _samples(calibration)
        if calibration.dtype == np.uint8:
            converter.inference_input_type = tf.uint8
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)  # pixels need none
        try:
            content: bytes = converter.convert()
        except Exception as error:  # the converter's own errors and many others
            raise TaskFailedError(f"the model can't be converted to LiteRT: {_reason(error)}") from error
    return content


def _samples(examples: NDArray[Any]) -> Iterator[list[NDArray[np.float32]]]:
    for example in examples:
        yield [example[None].astype(np.float32)]


def _reason(error: Exception) -> str:
    lacking = sorted(set(re.findall(r"'(tf\.\w+)' op is neither", str(error))))
    if lacking:
        return f"it has no {', '.join(lacking)}; build the model without, or deploy it as it is"
    return str(error).strip().partition("\n")[0] or type(error).__name__
