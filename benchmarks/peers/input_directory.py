"""Takes batches of keras.utils.image_dataset_from_directory."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import Work, main
from benchmarks.taking import take_for

_SHUFFLED = 1000


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs`, `side`, `batch`, `cached` and `seconds`."""

    def work() -> dict[str, float]:
        started = time.perf_counter()
        cached, size = given["cached"], given["batch"]
        unbatched: Any = None  # which Keras takes, and its types don't
        dataset: Any = keras.utils.image_dataset_from_directory(
            given["photographs"],
            label_mode="categorical",
            image_size=(given["side"], given["side"]),
            batch_size=unbatched if cached else size,
            seed=0,
            verbose=False,
        )
        if cached:
            dataset = dataset.cache()
            for _ in dataset:  # the first pass fills it
                pass
            dataset = dataset.shuffle(_SHUFFLED, seed=0).batch(size)
        batches = iter(dataset.repeat().prefetch(tf.data.AUTOTUNE))
        return take_for(given["seconds"], batches, lambda batch: len(batch[1]), started)

    return work


if __name__ == "__main__":
    main(prepare)
