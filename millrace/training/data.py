"""What training reads: early checks of the records, and an endless stream that can start at any step.

The stream is cut into steps of `batch_size` images; an image's place in it, with the seed, decides
everything random about it. So a run that goes on from step N sees what it would have seen, and several
ranks together see what one would: each has its places of every step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from millrace.errors import ConfigError, DataError, did_you_mean
from millrace.runtime.datasets import decode_records, decoded_dataset, load_arrays, record_dataset
from millrace.runtime.records import counts
from millrace.runtime.schemas import CHANNELS, Channel, ImageRecords, TextRecords, read_records_schema
from millrace.training.augmentation import AugmentationLayer
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.parameters import TrainParameters
from millrace.training.ranks import Part, Ranks

__all__ = ["Data", "evaluation_batches", "inspect", "pixel_statistics", "training_batches"]

_MIB = 2**20


@dataclass(frozen=True)
class Data:
    """A Records artifact that training can use."""

    records: Path
    schema: ImageRecords | TextRecords
    sizes: dict[Channel, int]
    """Records a channel."""
    class_weights: tuple[float, ...] | None
    by_class: dict[str, int]
    """Train records of each class."""

    def bytes(self, channel: Channel) -> int:
        """Size of a channel's decoded records."""
        return self.sizes[channel] * math.prod(self.schema.shape) * np.dtype(self.schema.dtype).itemsize


def inspect(records: Path, parameters: TrainParameters) -> Data:
    """Read the schema and the counts, and refuse what training would trip over later.

    Raises:
        DataError: When a channel or a class is missing.
        ConfigError: When the parameters do not fit the data.
    """
    schema = read_records_schema(records)
    shards = {channel: counts(records, channel) for channel in CHANNELS}
    sizes: dict[Channel, int] = {channel: sum(shard.records for shard in shards[channel]) for channel in CHANNELS}
    if not sizes["train"]:
        raise DataError(
            f"{records} has no train records: give training data a `train` channel, or let `manifest` split"
        )
    if not sizes["validation"]:
        raise DataError(f"{records} has no validation records: raise the validation share of the split in `manifest`")
    if parameters.test_steps and not sizes["test"]:
        raise DataError(f"test_steps is {parameters.test_steps}, but {records} has no test records: set it to 0")
    if len(schema.classes) < 2:
        raise DataError(f"training needs two classes at least, the records have {list(schema.classes)}")
    by_class: Counter[str] = Counter()
    for shard in shards["train"]:
        by_class.update(shard.by_class)
    if missing := [name for name in schema.classes if not by_class[name]]:
        raise DataError(f"no train record of {_listed(missing)}: add objects, or leave these classes out of the data")
    if parameters.batch_size > sizes["train"]:
        raise ConfigError(
            f"batch_size is {parameters.batch_size}, but there are only {sizes['train']} train records: "
            f"choose {sizes['train']} or less"
        )
    if isinstance(schema, TextRecords) and (parameters.augmentation, parameters.pixels) != (Augmentation(), Pixels()):
        raise ConfigError("augmentation and pixels are for pictures, the records hold texts: leave them out")
    return Data(records, schema, sizes, _weights(parameters, schema, by_class), dict(by_class))


def training_batches(data: Data, parameters: TrainParameters, start: int, part: Part | None = None) -> Any:
    """The endless stream of (examples, float32 one-hot labels, float32 weights) from step `start` on.

    Images are float32 and augmented, texts are int32 token ids as they are.

    Args:
        data: The records.
        parameters: How they are used.
        start: The first step.
        part: Which places of each step; None gives all.
    """
    if data.bytes("train") <= parameters.cache_mib * _MIB:
        batches = _cached(data, parameters, start, part)
    else:
        batches = _streamed(data, parameters, start, part)
    augment = AugmentationLayer(parameters.augmentation) if isinstance(data.schema, ImageRecords) else None
    weights = None if data.class_weights is None else tf.constant(data.class_weights, tf.float32)
    classes = len(data.schema.classes)

    def prepare(step: Any, batch: tuple[Any, Any]) -> tuple[Any, ...]:
        images, labels = batch
        if augment is not None:
            images = augment(images, seed=tf.stack([tf.cast(parameters.seed, tf.int64), step]), part=part)
        targets = tf.one_hot(labels, classes)
        return (images, targets) if weights is None else (images, targets, tf.gather(weights, labels))

    prepared = batches.enumerate(start).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return prepared.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    data: Data, channel: Channel, parameters: TrainParameters, steps: int | None, ranks: Ranks | None = None
) -> Any:
    """Up to `steps` batches of (float32 images or int32 tokens, float32 one-hot labels) in order.

    The last one may be smaller.
    With `ranks`, this rank's share of these records; there may be none.
    """
    classes = len(data.schema.classes)
    dtype = tf.float32 if isinstance(data.schema, ImageRecords) else tf.int32
    if ranks is not None:
        batches = _shared(data, channel, parameters, steps, ranks)
    elif data.bytes(channel) <= parameters.cache_mib * _MIB:
        images = tf.data.Dataset.from_tensor_slices(load_arrays(data.records, channel))
        batches = images.batch(parameters.batch_size).take(-1 if steps is None else steps)
    else:
        images = decoded_dataset(data.records, channel)
        batches = images.batch(parameters.batch_size).take(-1 if steps is None else steps)
    prepared = batches.map(
        lambda images, labels: (tf.cast(images, dtype), tf.one_hot(labels, classes)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return prepared.prefetch(tf.data.AUTOTUNE)


def pixel_statistics(data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each colour channel over all training images, on the 0 to 255 scale."""
    height, width, channels = data.schema.shape
    total = np.zeros(channels)
    squares = np.zeros(channels)
    for images, _ in decoded_dataset(data.records, "train").batch(64).as_numpy_iterator():
        pixels = images.astype(np.float64)
        total += pixels.sum(axis=(0, 1, 2))
        squares += np.square(pixels).sum(axis=(0, 1, 2))
    count = data.sizes["train"] * height * width
    mean = total / count
    return mean, squares / count - np.square(mean)


def _shared(data: Data, channel: Channel, parameters: TrainParameters, steps: int | None, ranks: Ranks) -> Any:
    """One rank's share of the records that are evaluated: each `ranks.count`th."""
    limit = data.sizes[channel] if steps is None else min(steps * parameters.batch_size, data.sizes[channel])
    if data.bytes(channel) <= parameters.cache_mib * _MIB:
        arrays = load_arrays(data.records, channel)
        images = tf.data.Dataset.from_tensor_slices(tuple(array[ranks.index : limit : ranks.count] for array in arrays))
    else:
        mine = record_dataset(data.records, channel).take(limit).shard(ranks.count, ranks.index)
        images = decode_records(mine, data.schema)
    return images.batch(math.ceil(parameters.batch_size / ranks.count))


def _cached(data: Data, parameters: TrainParameters, start: int, part: Part | None) -> Any:
    """Batches drawn from arrays in memory; each pass over the data in an order of its own."""
    arrays = load_arrays(data.records, "train")
    images, labels = (tf.constant(array) for array in arrays)
    size, batch = data.sizes["train"], parameters.batch_size
    first, end, _ = part or Part(0, batch, batch)

    def draw(step: Any) -> tuple[Any, Any]:
        places = step * batch + tf.range(first, end, dtype=tf.int64)
        passes = tf.cast(places // size, tf.int32)
        seeds = tf.stack([tf.fill([end - first], parameters.seed), passes, tf.zeros_like(passes)], axis=1)
        # the public wrapper, tf.random.experimental.index_shuffle, takes no seed for each index
        chosen = tf.raw_ops.RandomIndexShuffle(
            index=places % size, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4
        )
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    return tf.data.Dataset.range(start, np.iinfo(np.int64).max // batch).map(draw)


def _streamed(data: Data, parameters: TrainParameters, start: int, part: Part | None) -> Any:
    """Batches read from the record files, shuffled through a buffer; what is skipped is not decoded."""
    size, batch = data.sizes["train"], parameters.batch_size
    passed, place = divmod(start * batch, size)

    def one_pass(index: Any) -> Any:
        return record_dataset(data.records, "train").shuffle(
            parameters.shuffle_buffer, seed=index + parameters.seed * 1_000_003, reshuffle_each_iteration=False
        )

    passes = tf.data.Dataset.range(passed, np.iinfo(np.int64).max)
    records = passes.flat_map(one_pass).skip(place)
    if part is not None:
        batch = part.size
        records = records.batch(part.whole, drop_remainder=True).map(lambda step: step[part.first : part.end]).unbatch()
    return decode_records(records, data.schema).batch(batch, drop_remainder=True)


def _weights(
    parameters: TrainParameters, schema: ImageRecords | TextRecords, by_class: Counter[str]
) -> tuple[float, ...] | None:
    chosen = parameters.class_weights
    if chosen == "none":
        return None
    if chosen == "balanced":
        total = sum(by_class[name] for name in schema.classes)
        return tuple(total / (len(schema.classes) * by_class[name]) for name in schema.classes)
    for name in chosen:
        if name not in schema.classes:
            raise ConfigError(f"class_weights names unknown class {name!r}: {did_you_mean(name, schema.classes)}")
    return tuple(chosen.get(name, 1.0) for name in schema.classes)


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"class {shown}{more}" if len(names) == 1 else f"classes {shown}{more}"
