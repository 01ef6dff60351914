"""Makes record files of photographs with tf.data and tf.image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs` and `side`."""
    paths = sorted(str(path) for path in Path(given["photographs"]).rglob("*.jpg"))
    side = given["side"]

    def convert(path: Any) -> Any:
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        shape = tf.shape(pixels)[:2]
        least = tf.reduce_min(shape)
        start = (shape - least) // 2
        square = pixels[start[0] : start[0] + least, start[1] : start[1] + least]
        small = tf.image.resize(square, (side, side), method="bicubic", antialias=True)
        small = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
        return tf.io.encode_jpeg(small, quality=95), path

    def feature(data: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))

    def work() -> int:
        count = 0
        dataset = tf.data.Dataset.from_tensor_slices(paths).map(convert, num_parallel_calls=tf.data.AUTOTUNE)
        with tempfile.TemporaryDirectory() as folder, tf.io.TFRecordWriter(f"{folder}/all.tfrecord") as writer:
            for image, path in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
                features = tf.train.Features(feature={"image": feature(image), "uri": feature(path)})
                writer.write(tf.train.Example(features=features).SerializeToString())
                count += 1
        return count

    return work


if __name__ == "__main__":
    main(prepare)
