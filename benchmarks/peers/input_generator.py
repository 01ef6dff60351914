"""Takes batches of the ImageDataGenerator recipe."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from benchmarks.measure import Work, main
from benchmarks.taking import take_for


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs`, `side`, `batch` and `seconds`."""

    def work() -> dict[str, float]:
        started = time.perf_counter()
        batches = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255).flow_from_directory(
            given["photographs"],
            target_size=(given["side"], given["side"]),
            batch_size=given["batch"],
            class_mode="categorical",
            seed=0,
        )
        return take_for(given["seconds"], batches, lambda batch: len(batch[1]), started)

    return work


if __name__ == "__main__":
    main(prepare)
