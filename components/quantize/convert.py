"""Keras models to LiteRT, in float32 and quantized; the same bytes each time."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from millrace.errors import TaskFailedError

__all__ = ["Scheme", "convert"]

Scheme = Literal["none", "dynamic", "float16", "int8"]


def convert(model: Any, scheme: Scheme, calibration: NDArray[np.uint8] | None, log: logging.Logger) -> bytes:
    """A Keras model as a LiteRT file.

    Args:
        model: Takes pixels of 0 to 255 as float32 [N, height, width, channels].
        scheme: How to quantize.
        calibration: Images, uint8 [N, height, width, channels]; needed for int8 only, which then takes uint8
            pixels, the other schemes float32.
        log: Is told when a part stays in float.

    Raises:
        TaskFailedError: When LiteRT lacks an operation that the model needs.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if scheme != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is None:
        return _converted(converter, scheme)
    converter.representative_dataset = lambda: _samples(calibration)
    converter.inference_input_type = tf.uint8
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        return _converted(converter, scheme)
    except TaskFailedError as error:
        log.warning("operations that LiteRT has no 8-bit form of stay in float: %s", error)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return _converted(converter, scheme)


def _samples(images: NDArray[np.uint8]) -> Iterator[list[NDArray[np.float32]]]:
    for image in images:
        yield [image[None].astype(np.float32)]


def _converted(converter: Any, scheme: Scheme) -> bytes:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)  # pixels need none
        try:
            content: bytes = converter.convert()
        except Exception as error:  # the converter's own errors and many others
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise TaskFailedError(f"the model can't be converted to LiteRT with scheme={scheme}: {reason}") from error
    return content
