"""Trains a small network on keras.utils.image_dataset_from_directory, and tells how long steps wait for a batch."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import Work, main

_BATCH = 32
_WARM_UP = 3


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs`, `side` and `steps`."""
    dataset: Any = keras.utils.image_dataset_from_directory(
        given["photographs"], label_mode="categorical", image_size=(given["side"], given["side"]), batch_size=_BATCH,
        seed=0, verbose=False,
    )  # fmt: skip
    model = _network(given["side"], len(dataset.class_names))
    batches = iter(dataset.repeat().prefetch(tf.data.AUTOTUNE))
    for _ in range(_WARM_UP):
        model.train_on_batch(*next(batches))

    def work() -> dict[str, float]:
        waited, begun = 0.0, time.perf_counter()
        for _ in range(given["steps"]):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            model.train_on_batch(*batch)
        seconds = time.perf_counter() - begun
        step = 1000 / given["steps"]
        return {
            "work": _BATCH * given["steps"],
            "seconds": seconds,
            "waiting_share": waited / seconds,
            "input_ms": waited * step,
            "compute_ms": (seconds - waited) * step,
        }

    return work


def _network(side: int, classes: int) -> Any:
    """Of the same form as ours: stages of two convolutions and a pooling, until few pixels are left."""
    layers: list[Any] = [keras.layers.Input((side, side, 3)), keras.layers.Rescaling(1 / 255)]
    for filters in (16, 32, 64, 128, 128):
        for _ in range(2):
            layers += [
                keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(classes)]
    model: Any = keras.Sequential(layers)
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


if __name__ == "__main__":
    main(prepare)
