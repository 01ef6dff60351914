"""Record files as tf.data datasets and NumPy arrays, in an order that never changes.

TensorFlow is imported inside the functions, so that this module can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.errors import DataError, did_you_mean
from millrace.runtime.records import counts
from millrace.runtime.schemas import (
    Channel,
    ImageRecords,
    RecordsSchema,
    ShardCounts,
    TabularRecords,
    TextRecords,
    read_records_schema,
)

__all__ = [
    "damage_explained",
    "decode_records",
    "decoded_arrays",
    "decoded_dataset",
    "load_arrays",
    "record_dataset",
    "total_records",
]

_READ_BYTES = 8 * 2**20
_MOST_AT_ONCE = 256
_BLOCK_BYTES = 2 * 2**20
"""Of decoded records: larger blocks go back to the system and are cleared again each time, which doubles the time."""


def total_records(records: Path, channel: Channel, *, files: Sequence[str] | None = None) -> int:
    """Number of records in a channel, or in some of its files; 0 when the channel has none."""
    return sum(shard.records for shard in _selected(records, channel, files))


def record_dataset(records: Path, channel: Channel, *, files: Sequence[str] | None = None) -> Any:
    """A `tf.data.Dataset` of the serialized records of a channel, shard after shard.

    Its cardinality is known. Shuffle and skip here rather than after decoding: a shuffle buffer then
    holds encoded records, and what is skipped is never decoded.

    Args:
        records: A Records artifact.
        channel: train, validation or test.
        files: Names of record files to read, in this order; all of the channel when None.

    Raises:
        DataError: When the channel has no records, or `files` names one that it does not have.
    """
    import tensorflow as tf

    shards = [shard for shard in _selected(records, channel, files) if shard.records]
    if not shards:
        raise DataError(f"{records}: channel {channel!r} has no records")
    paths = [str(records / shard.file) for shard in shards]
    dataset = tf.data.TFRecordDataset(paths, buffer_size=_READ_BYTES)
    return dataset.apply(tf.data.experimental.assert_cardinality(sum(shard.records for shard in shards)))


def decode_records(dataset: Any, schema: RecordsSchema, *, with_uri: bool = False) -> Any:
    """Decode a dataset of serialized records, in parallel and in order.

    Args:
        dataset: What `record_dataset` gave, shuffled, skipped or repeated as needed.
        schema: The schema of the records.
        with_uri: Whether elements have the object's URI as a third, string component.

    Returns:
        A `tf.data.Dataset` of (example, int64 label); an example is a uint8 image [height, width, channels] as
        encoded, 0 to 255, or int32 token ids [max_seq_length], padded, or float32 features [features].
    """
    import tensorflow as tf

    name, kind, decoded = _example(schema)
    features = {"label": tf.io.FixedLenFeature([], tf.int64), name: kind}
    if with_uri:
        features["uri"] = tf.io.FixedLenFeature([], tf.string)

    def decode(record: Any) -> tuple[Any, ...]:
        given = tf.io.parse_single_example(record, features)
        example = decoded(given[name])
        return (example, given["label"], given["uri"]) if with_uri else (example, given["label"])

    return dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def decoded_dataset(
    records: Path, channel: Channel, *, files: Sequence[str] | None = None, with_uri: bool = False
) -> Any:
    """A `tf.data.Dataset` of (example, int64 label), see `decode_records`, not batched or shuffled.

    Args:
        records: A Records artifact.
        channel: train, validation or test.
        files: Names of record files to read, in this order; all of the channel when None.
        with_uri: Whether elements have the object's URI as a third, string component.

    Raises:
        DataError: When the channel has no records, or `files` names one that it does not have.
    """
    schema = read_records_schema(records)
    return decode_records(record_dataset(records, channel, files=files), schema, with_uri=with_uri)


def load_arrays(records: Path, channel: Channel, limit: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The first `limit` records of a channel, or all of them, decoded, as arrays in memory.

    Returns:
        Examples [N, *shape] of the schema's shape and type, and labels [N].

    Raises:
        DataError: When the channel has no records or a record file is damaged.
    """
    total = total_records(records, channel)
    size = total if limit is None else min(limit, total)
    with damage_explained(records, channel):
        return decoded_arrays(record_dataset(records, channel).take(size), read_records_schema(records), size)


def decoded_arrays(dataset: Any, schema: RecordsSchema, size: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The `size` records of a dataset of serialized ones, decoded, as arrays in memory: see `load_arrays`."""
    examples = np.empty((size, *schema.shape), schema.dtype)
    labels = np.empty(size, np.int64)
    position = 0
    some_at_once = max(1, min(_MOST_AT_ONCE, _BLOCK_BYTES // max(1, examples[:1].nbytes)))
    for some, some_labels in decode_records(dataset, schema).batch(some_at_once).as_numpy_iterator():
        end = position + len(some_labels)
        examples[position:end], labels[position:end] = some, some_labels
        position = end
    return examples, labels


@contextmanager
def damage_explained(records: Path, channel: Channel) -> Iterator[None]:
    """Turn TensorFlow's errors about record files, raised while a dataset is read, into a `DataError`."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        what = error.message.rpartition("}} ")[2].partition(" [Op:")[0].partition("\n")[0]
        raise DataError(f"{records}: channel {channel!r} can't be read: {what}; make the records anew") from error


def _selected(records: Path, channel: Channel, files: Sequence[str] | None) -> tuple[ShardCounts, ...]:
    shards = {shard.file: shard for shard in counts(records, channel)}
    if files is None:
        return tuple(shards.values())
    for name in files:
        if name not in shards:
            raise DataError(f"{records}: channel {channel!r} has no file {name!r}: {did_you_mean(name, shards)}")
    return tuple(shards[name] for name in files)


def _example(schema: RecordsSchema) -> tuple[str, Any, Callable[[Any], Any]]:
    """Name and form of what a record is about, and what decodes it."""
    import tensorflow as tf

    match schema:
        case ImageRecords():
            return "image", tf.io.FixedLenFeature([], tf.string), lambda image: _decode(image, schema)
        case TextRecords():
            some = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
            return "tokens", some, lambda tokens: _padded(tokens, schema)
        case TabularRecords():
            return "features", tf.io.FixedLenFeature(schema.shape, tf.float32), lambda features: features


def _decode(image: Any, schema: ImageRecords) -> Any:
    import tensorflow as tf

    shape = (schema.height, schema.width, schema.channels)
    if schema.encoding == "raw":
        return tf.reshape(tf.io.decode_raw(image, tf.uint8), shape)
    if schema.encoding == "png":
        return tf.ensure_shape(tf.io.decode_png(image, channels=schema.channels), shape)
    decoded = tf.io.decode_jpeg(image, channels=schema.channels, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(decoded, shape)


def _padded(tokens: Any, schema: TextRecords) -> Any:
    import tensorflow as tf

    length: Any = tf.shape(tokens)[0]
    longest = schema.max_seq_length
    fits = (length > 0) & (length <= longest)
    checked = tf.debugging.Assert(fits, ["a record has tokens:", length, "allowed: 1 to", longest])
    with tf.control_dependencies([] if checked is None else [checked]):
        padded = tf.pad(tf.cast(tokens, tf.int32), [[0, longest - length]], constant_values=schema.pad_id)
    return tf.ensure_shape(padded, schema.shape)
