"""Reads picture records with tf.data."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `folder`, `files` and `shape`: of JPEG pictures."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "uri": tf.io.FixedLenFeature([], tf.string),
    }

    def work() -> int:
        found = 0
        for record in tf.data.TFRecordDataset([f"{given['folder']}/{name}" for name in given["files"]]):
            one = tf.io.parse_single_example(record, features)
            found += tuple(tf.io.decode_jpeg(one["image"]).shape) == tuple(given["shape"]) and int(one["label"]) >= 0
        return int(found)

    return work


if __name__ == "__main__":
    main(prepare)
