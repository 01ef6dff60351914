"""Writes or reads a TFRecord file with TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from benchmarks.measure import Work, main
from benchmarks.some_records import some_records


def prepare(given: dict[str, Any]) -> Work:
    """Given `work` (write, read), `path`, to write `length` and `count`, to read `batch` (0: record by record)."""
    path = given["path"]
    if given["work"] == "read":
        dataset = tf.data.TFRecordDataset(path, buffer_size=8 * 2**20)
        if size := given.get("batch"):
            return lambda: sum(len(batch) for batch in dataset.batch(size).as_numpy_iterator())
        return lambda: sum(1 for _ in dataset.as_numpy_iterator())
    records = some_records(given["length"])

    def write() -> int:
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(given["count"]):
                writer.write(records[number % len(records)])
        return int(given["count"])

    return write


if __name__ == "__main__":
    main(prepare)
