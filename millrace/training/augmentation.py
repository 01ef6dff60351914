"""Augmentation as one Keras layer: the same seed gives the same changes, whatever ran before."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from millrace.training.options.images import Augmentation

__all__ = ["AugmentationLayer"]


class AugmentationLayer(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
    """Changes a batch of images, each at random in its own way.

    All that moves pixels is one affine map, so an image is resampled once. There is no hidden state:
    the result is a function of the images and the seed.
    """

    def __init__(self, options: Augmentation) -> None:
        super().__init__(dtype="float32", trainable=False)
        self.options = options

    def call(self, images: Any, seed: Any, places: Any = None, whole: Any = None) -> Any:
        """Change images.

        Args:
            images: [N, H, W, C] on the 0 to 255 scale.
            seed: Two integers.
            places: Of these images in their batch; None when they are all of it.
            whole: Size of that batch.

        Returns:
            float32 [N, H, W, C] on the 0 to 255 scale.
        """
        options = self.options
        images = tf.cast(images, tf.float32)
        size: Any = tf.shape(images, tf.int64)[0] if places is None else whole
        channels = images.shape[-1]
        draws = tf.random.stateless_uniform([size, 10 + channels], seed, -1.0, 1.0)
        if places is not None:
            draws = tf.gather(draws, places)
        if options.geometric:
            images = _move(images, draws[:, :8], options)
        if options.photometric:
            images = _recolour(images, draws[:, 8:], options)
        return images


def _move(images: Any, draws: Any, options: Augmentation) -> Any:
    height, width = images.shape[1], images.shape[2]
    matrices = _matrices(draws, options, height, width)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=[height, width],
        fill_value=options.fill_value,
        interpolation=options.interpolation.upper(),
        fill_mode=options.fill_mode.upper(),
    )


def _matrices(draws: Any, options: Augmentation, height: int, width: int) -> Any:
    """Rows `[a0, a1, a2, b0, b1, b2, 0, 0]`: where in the input each output pixel is read."""
    angle = draws[:, 0] * math.radians(options.rotation_degrees)
    shear = tf.tan(draws[:, 1] * math.radians(options.shear_degrees))
    shift_x = draws[:, 2] * options.width_shift * width
    shift_y = draws[:, 3] * options.height_shift * height
    scale_x = _flip(draws[:, 6], options.horizontal_flip) / _between(draws[:, 4], options.zoom)
    scale_y = _flip(draws[:, 7], options.vertical_flip) / _between(draws[:, 5], options.zoom)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # rotation x shear x (zoom and flip), about the centre of the image
    a0, a1 = cos * scale_x, (cos * shear - sin) * scale_y
    b0, b1 = sin * scale_x, (sin * shear + cos) * scale_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    a2 = centre_x - a0 * centre_x - a1 * centre_y - shift_x
    b2 = centre_y - b0 * centre_x - b1 * centre_y - shift_y
    zeros = tf.zeros_like(angle)
    return tf.stack([a0, a1, a2, b0, b1, b2, zeros, zeros], axis=1)


def _recolour(images: Any, draws: Any, options: Augmentation) -> Any:
    brightness = _between(draws[:, 0], options.brightness)[:, None, None, None]
    contrast = _between(draws[:, 1], options.contrast)[:, None, None, None]
    shift = draws[:, None, None, 2:] * options.channel_shift
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return tf.clip_by_value(((images - mean) * contrast + mean) * brightness + shift, 0.0, 255.0)


def _between(draw: Any, limits: tuple[float, float]) -> Any:
    low, high = limits
    return low + (draw + 1) / 2 * (high - low)


def _flip(draw: Any, allowed: bool) -> Any:
    return tf.where(draw < 0, -1.0, 1.0) if allowed else tf.ones_like(draw)
