"""Takes batches of keras.utils.image_dataset_from_directory."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import Work, main
from benchmarks.taking import take_for


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs`, `side`, `batch`, `cached` and `seconds`."""

    def work() -> dict[str, float]:
        started = time.perf_counter()
        dataset = keras.utils.image_dataset_from_directory(
            given["photographs"],
            label_mode="categorical",
            image_size=(given["side"], given["side"]),
            batch_size=given["batch"],
            seed=0,
            verbose=False,
        )
        if given["cached"]:
            dataset = dataset.cache()
            for _ in dataset:  # the first pass fills it
                pass
        batches = iter(dataset.repeat().prefetch(tf.data.AUTOTUNE))
        return take_for(given["seconds"], batches, lambda batch: len(batch[1]), started)

    return work


if __name__ == "__main__":
    main(prepare)
