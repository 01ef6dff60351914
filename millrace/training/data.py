"""What training reads: early checks of the records, and an endless stream that can start at any step.

What a step takes is a function of the step (see `order`); an image's place in it, with the seed, decides everything
random about it. So a run that goes on from step N sees what it would have seen, and any number of ranks together see
what one would.
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
from millrace.runtime.datasets import damage_explained, decode_records, decoded_arrays, record_dataset
from millrace.runtime.schemas import CHANNELS, Channel, ImageRecords, RecordsSchema, TextRecords
from millrace.training.augmentation import AugmentationLayer
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.order import DataOrder, FileOrder, Steps, file_order
from millrace.training.parameters import TrainParameters
from millrace.training.ranks import Ranks
from millrace.training.shards import RecordFile, take_stock

__all__ = ["Data", "evaluation_batches", "inspect", "own_records", "pixel_statistics", "training_batches"]

_MIB = 2**20
_READ_BYTES = 8 * _MIB
_LEAST_READ_BYTES = 2**18
_FOREVER = np.iinfo(np.int64).max
_SEEDS = 2**31 - 1  # what tf.data takes of larger ones
_READY_SHARE = 8
"""Of the records that are drawn from, one in so many is kept ready beside: enough to decode while the buffer is filled
for the next pass."""


@dataclass(frozen=True)
class Data:
    """A Records artifact that training can use."""

    records: Path
    schema: RecordsSchema
    sizes: dict[Channel, int]
    """Records a channel."""
    class_weights: tuple[float, ...] | None
    by_class: dict[str, int]
    """Train records of each class."""
    files: dict[Channel, tuple[RecordFile, ...]] | None = None
    """Who reads which file; None when all ranks read all."""

    def bytes(self, channel: Channel) -> int:
        """Size of a channel's decoded records."""
        return self.sizes[channel] * math.prod(self.schema.shape) * np.dtype(self.schema.dtype).itemsize


def inspect(records: Path, parameters: TrainParameters, ranks: Ranks | None = None) -> Data:
    """Read the schema and the counts, of all ranks, and refuse what training would trip over later.

    Raises:
        DataError: When a channel or a class is missing, or the ranks' record files do not go together.
        ConfigError: When the parameters do not fit the data.
    """
    schema, shards, files = take_stock(records, parameters.sharding, ranks)
    sizes: dict[Channel, int] = {channel: sum(shard.records for shard in shards[channel]) for channel in CHANNELS}
    if not sizes["train"]:
        raise DataError(
            f"{records} has no train records: give training data a `train` channel, or let `manifest` split"
        )
    if not sizes["validation"]:
        raise DataError(f"{records} has no validation records: raise the validation share of the split in `manifest`")
    for name in ("test_steps", "sample_predictions"):
        if getattr(parameters, name) != 0 and not sizes["test"]:
            raise DataError(f"{name} is {getattr(parameters, name)}, but {records} has no test records: set it to 0")
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
    if not isinstance(schema, ImageRecords) and (parameters.augmentation, parameters.pixels) != (
        Augmentation(),
        Pixels(),
    ):
        raise ConfigError(f"augmentation and pixels are for pictures, the records hold {schema.things}: leave them out")
    _check_buckets(parameters, schema)
    return Data(records, schema, sizes, _weights(parameters, schema, by_class), dict(by_class), files)


def training_batches(data: Data, parameters: TrainParameters, start: int, ranks: Ranks | None = None) -> Any:
    """The endless stream of (examples, float32 one-hot labels, float32 weights) from step `start` on.

    Images are float32 and augmented; token ids (int32) and features (float32) are as they are. There are weights
    only when classes have any. With `ranks` each element is a pair: such a tuple with what this rank has of the step,
    and how many records all ranks have of it (float32). A rank that has none of a step gets none.
    """
    steps = Steps(data.sizes["train"], parameters.batch_size)
    order = DataOrder(steps, ranks) if data.files is None else file_order(steps, data.files["train"])
    if data.bytes("train") <= parameters.cache_mib * _MIB:
        batches = _cached(data, parameters, order, start)
    else:
        batches = _streamed(data, parameters, order, start)
    augment = AugmentationLayer(parameters.augmentation) if isinstance(data.schema, ImageRecords) else None
    weights = None if data.class_weights is None else tf.constant(data.class_weights, tf.float32)
    classes = len(data.schema.classes)

    def prepare(step: Any, batch: tuple[Any, Any]) -> tuple[Any, ...]:
        examples, labels = _shortened(batch[0], parameters, data.schema), batch[1]
        places, whole = order.mine(step % steps.count)
        if augment is not None:
            seed = tf.stack([tf.cast(parameters.seed, tf.int64), step])
            examples = augment(examples, seed=seed, places=places, whole=whole)
        targets = tf.one_hot(labels, classes)
        given = (examples, targets) if weights is None else (examples, targets, tf.gather(weights, labels))
        return given if ranks is None else (given, tf.cast(whole, tf.float32))

    prepared = batches.enumerate(start).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return prepared.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    data: Data, channel: Channel, parameters: TrainParameters, steps: int | None, ranks: Ranks | None = None
) -> Any:
    """Up to `steps` batches of (float32 images or features or int32 tokens, float32 one-hot labels) in order.

    The last one may be smaller. With `ranks`, this rank's share of these records; there may be none.
    """
    classes = len(data.schema.classes)
    own = parameters.validation_batch_size if channel == "validation" else parameters.test_batch_size
    batch = own or parameters.batch_size
    limit = data.sizes[channel] if steps is None else min(steps * batch, data.sizes[channel])
    records, size = _evaluated(data, channel, limit, ranks)
    if data.bytes(channel) <= parameters.cache_mib * _MIB:
        with damage_explained(data.records, channel):
            decoded = tf.data.Dataset.from_tensor_slices(decoded_arrays(records, data.schema, size))
    else:
        decoded = decode_records(records, data.schema).apply(tf.data.experimental.assert_cardinality(size))
    prepared = decoded.batch(math.ceil(batch / (ranks.count if ranks else 1))).map(
        lambda examples, labels: (
            _shortened(tf.cast(examples, data.schema.input_dtype), parameters, data.schema),
            tf.one_hot(labels, classes),
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return prepared.prefetch(tf.data.AUTOTUNE)


def pixel_statistics(data: Data, ranks: Ranks | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each colour channel over all training images, on the 0 to 255 scale."""
    height, width, channels = data.schema.shape
    total = np.zeros(channels)
    squares = np.zeros(channels)
    for images, _ in decode_records(own_records(data, "train"), data.schema).batch(64).as_numpy_iterator():
        pixels = images.astype(np.float64)
        total += pixels.sum(axis=(0, 1, 2))
        squares += np.square(pixels).sum(axis=(0, 1, 2))
    if ranks is not None and data.files is not None:
        total, squares = (one.numpy() for one in ranks.total([tf.constant(total), tf.constant(squares)]))
    count = data.sizes["train"] * height * width
    mean = total / count
    return mean, squares / count - np.square(mean)


def _check_buckets(parameters: TrainParameters, schema: RecordsSchema) -> None:
    if parameters.buckets is None:
        return
    if not isinstance(schema, TextRecords):
        raise ConfigError(f"buckets is for texts, the records hold {schema.things}: leave it out")
    if parameters.buckets[-1] > schema.max_seq_length:
        raise ConfigError(
            f"buckets has {parameters.buckets[-1]}, but texts have at most {schema.max_seq_length} tokens "
            "(preprocess.data.max_seq_length): leave it out"
        )


def _shortened(examples: Any, parameters: TrainParameters, schema: RecordsSchema) -> Any:
    """A batch of texts without the padding beyond the first bucket that holds all; others as they are."""
    if parameters.buckets is None or not isinstance(schema, TextRecords):
        return examples
    sizes = tf.constant(sorted({*parameters.buckets, schema.max_seq_length}))
    ends = tf.where(examples != schema.pad_id, tf.range(1, schema.max_seq_length + 1), 0)
    bucket = tf.searchsorted(sizes, tf.reduce_max(ends)[None])[0]
    return examples[:, : sizes[bucket]]


def _evaluated(data: Data, channel: Channel, limit: int, ranks: Ranks | None) -> tuple[Any, int]:
    """This rank's share of the first `limit` serialized records of a channel, and its size."""
    if data.files is None:
        count, index = (ranks.count, ranks.index) if ranks else (1, 0)
        return record_dataset(data.records, channel).take(limit).shard(count, index), -(-(limit - index) // count)
    size = position = 0
    for file in data.files[channel]:
        size += min(file.records, max(0, limit - position)) if file.mine else 0
        position += file.records
    return own_records(data, channel).take(size), size


def own_records(data: Data, channel: Channel) -> Any:
    """The serialized records of the files that this rank reads."""
    if data.files is None:
        return record_dataset(data.records, channel)
    paths = [str(data.records / file.name) for file in data.files[channel] if file.mine]
    return tf.data.TFRecordDataset(paths, buffer_size=_READ_BYTES)


def _cached(data: Data, parameters: TrainParameters, order: DataOrder | FileOrder, start: int) -> Any:
    """Batches drawn from arrays in memory; each pass over the data in an order of its own."""
    size = data.sizes["train"] if isinstance(order, DataOrder) else len(order.places)
    with damage_explained(data.records, "train"):
        arrays = decoded_arrays(own_records(data, "train"), data.schema, size)
    examples, labels = (tf.constant(array) for array in arrays)
    count = order.steps.count

    def draw(step: Any) -> tuple[Any, Any]:
        chosen = order.drawn(parameters.seed, step // count, step % count)
        return tf.gather(examples, chosen), tf.gather(labels, chosen)

    return tf.data.Dataset.range(start, _FOREVER).map(draw)


def _streamed(data: Data, parameters: TrainParameters, order: DataOrder | FileOrder, start: int) -> Any:
    """Batches read from the record files, shuffled through a buffer; what is skipped is not decoded."""
    passed, index = divmod(start, order.steps.count)
    if not order.sizes.any():
        none = np.empty((0, *data.schema.shape), data.schema.dtype), np.empty(0, np.int64)
        return tf.data.Dataset.from_tensors(none).repeat()
    if isinstance(order, DataOrder):
        records = _one_stream(data, parameters, order, passed, index)
    else:
        records = _stream_a_file(data, parameters, order, passed, index)
    drawn_from = min(parameters.shuffle_buffer, data.sizes["train"])
    records = records.prefetch(math.ceil(drawn_from / _READY_SHARE))
    sizes = np.roll(order.sizes, -index)
    return decode_records(records, data.schema).batch(max(1, sizes.max())).rebatch(sizes)


def _one_stream(data: Data, parameters: TrainParameters, order: DataOrder, passed: int, index: int) -> Any:
    """This rank's serialized records: all are read and shuffled, those of others dropped."""
    once = record_dataset(data.records, "train")

    def one_pass(number: Any) -> Any:
        seed = number + parameters.seed * 1_000_003
        return _mixed(once, parameters.shuffle_buffer, seed)

    steps, passes = order.steps, tf.data.Dataset.range(passed, _FOREVER)
    records = passes.flat_map(one_pass).skip(steps.begin(index))
    if order.ranks is None:
        return records

    def part(step: Any, batch: Any) -> Any:
        return tf.gather(batch, order.mine(step % steps.count).places)

    whole = records.batch(steps.batch).rebatch(np.roll(steps.sizes, -index))
    return whole.enumerate(index).map(part).unbatch()


def _mixed(records: Any, buffer: int, seed: Any) -> Any:
    """Serialized records in the order of `Dataset.shuffle`, which can be read ahead.

    The op that `shuffle` makes within a function counts as stateful, for which TensorFlow in its deterministic mode
    would take all that is parallel or ahead of time out of the whole pipeline.
    """
    of_process, _ = tf.compat.v1.get_seed(1)  # any number: what is set for the process is asked for
    own = seed % _SEEDS
    chance = (of_process == 0) & (own == 0)  # what two zeros stand for
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=buffer,
        seed=of_process,
        seed2=tf.where(chance, tf.constant(_SEEDS, tf.int64), own),
        output_types=[tf.string],
        output_shapes=[tf.TensorShape([])],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def _stream_a_file(data: Data, parameters: TrainParameters, order: FileOrder, passed: int, index: int) -> Any:
    """This rank's serialized records: each file is shuffled by itself, and as many are taken as its steps need."""
    begin = int(order.bounds[index])
    taken = np.bincount(order.numbers[:begin], minlength=len(order.own))
    read_bytes = max(_LEAST_READ_BYTES, _READ_BYTES // len(order.own))
    share = parameters.shuffle_buffer / order.steps.records
    passes = tf.data.Dataset.range(passed, _FOREVER)

    def stream(file: RecordFile, number: int, skipped: int) -> Any:
        once = tf.data.TFRecordDataset(str(data.records / file.name), buffer_size=read_bytes)
        buffer = max(1, math.ceil(file.records * share))

        def one_pass(passed: Any) -> Any:
            seed = passed + parameters.seed * 1_000_003 + number * 1_000_000_007
            return _mixed(once, buffer, seed)

        return passes.flat_map(one_pass).skip(skipped)

    ids = [number for number, file in enumerate(order.files, 1) if file.mine]
    streams = [stream(*given) for given in zip(order.own, ids, taken, strict=True)]
    chosen = tf.data.Dataset.from_tensor_slices(np.roll(order.numbers, -begin)).repeat()
    return tf.data.Dataset.choose_from_datasets(streams, chosen)


def _weights(parameters: TrainParameters, schema: RecordsSchema, by_class: Counter[str]) -> tuple[float, ...] | None:
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
