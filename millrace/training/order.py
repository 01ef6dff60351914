"""Which records a step takes, and which of them are a rank's: functions of the step and the files alone.

A pass over n records is cut into S = ceil(n / batch_size) steps: step i takes the places from i * n // S to
(i + 1) * n // S. So sizes differ by one at most, each record is in one step of a pass, and no step is in two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from millrace.training.ranks import Ranks
from millrace.training.shards import RecordFile

__all__ = ["DataOrder", "FileOrder", "Mine", "Steps", "file_order"]

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Steps:
    """How a pass is cut."""

    records: int
    batch: int
    """Records of a step at most."""

    @property
    def count(self) -> int:
        """Steps of a pass."""
        return -(-self.records // self.batch)

    def begin(self, index: Any) -> Any:
        """The first place of a step of a pass; of a number, an array or a tensor."""
        return index * self.records // self.count

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Records of each step of a pass."""
        sizes: NDArray[np.int64] = np.diff(self.begin(np.arange(self.count + 1)))
        return sizes


class Mine(NamedTuple):
    """What one rank has of a step, as tensors."""

    places: Any
    """Of its records among those of the step, int64."""
    whole: Any
    """Records of the step on all ranks together, int64."""


@dataclass(frozen=True)
class DataOrder:
    """All records are drawn from as one; a rank takes its part of each step."""

    steps: Steps
    ranks: Ranks | None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Records of this rank in each step of a pass."""
        wholes: Any = self.steps.sizes
        sizes: Any = wholes if self.ranks is None else self.ranks.part(wholes).size
        return np.asarray(sizes, np.int64)

    def mine(self, index: Any) -> Mine:
        """What this rank has of a step of a pass."""
        whole = self.steps.begin(index + 1) - self.steps.begin(index)
        part = None if self.ranks is None else self.ranks.part(whole)
        return Mine(tf.range(whole) if part is None else tf.range(part.first, part.end), whole)

    def drawn(self, seed: int, passed: Any, index: Any) -> Any:
        """Numbers of the records that this rank has in a step, among all."""
        places = self.steps.begin(index) + self.mine(index).places
        return _shuffled(places, tf.constant(self.steps.records, tf.int64), seed, passed, tf.zeros_like(places))


@dataclass(frozen=True)
class FileOrder:
    """Each file is drawn from by itself, evenly over the pass; a rank takes what comes from its files."""

    steps: Steps
    files: tuple[RecordFile, ...]
    places: NDArray[np.int64]
    """Of this rank's records in a pass."""
    numbers: NDArray[np.int64]
    """The file of each, among those of this rank."""
    within: NDArray[np.int64]
    """The place of each in the order of its file."""

    @property
    def own(self) -> list[RecordFile]:
        """Files of this rank."""
        return [file for file in self.files if file.mine]

    @property
    def bounds(self) -> NDArray[np.int64]:
        """How many of this rank's places come before each step of a pass, and before its end."""
        begins: NDArray[np.int64] = self.steps.begin(np.arange(self.steps.count + 1))
        return np.searchsorted(self.places, begins)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Records of this rank in each step of a pass."""
        sizes: NDArray[np.int64] = np.diff(self.bounds)
        return sizes

    def mine(self, index: Any) -> Mine:
        """What this rank has of a step of a pass."""
        begin, bounds = self.steps.begin(index), _lifted(self.bounds)
        places = _lifted(self.places)[bounds[index] : bounds[index + 1]]
        return Mine(places - begin, self.steps.begin(index + 1) - begin)

    def drawn(self, seed: int, passed: Any, index: Any) -> Any:
        """Numbers of the records that this rank has in a step, among those of its files one after another."""
        bounds = _lifted(self.bounds)
        some = slice(bounds[index], bounds[index + 1])
        number, within = (_lifted(array)[some] for array in (self.numbers, self.within))
        sizes = np.array([file.records for file in self.own], np.int64)
        ids = np.array([place for place, file in enumerate(self.files, 1) if file.mine], np.int64)
        chosen = _shuffled(within, tf.gather(sizes, number), seed, passed, tf.gather(ids, number))
        return tf.gather(np.cumsum(sizes) - sizes, number) + chosen


def file_order(steps: Steps, files: Sequence[RecordFile]) -> FileOrder:
    """Spread the records of each file evenly over a pass.

    Record k of a file of m comes at (k + phase) / m of the pass. The phases are multiples of the golden ratio, so that
    some of the files, in any choice, give nearly the same number to each step.
    """
    sizes = [file.records for file in files]
    times = [(np.arange(size) + (number * _GOLDEN) % 1) / max(1, size) for number, size in enumerate(sizes, 1)]
    places = np.argsort(np.concatenate(times), kind="stable")
    number = np.repeat(np.arange(len(files)), sizes)[places]
    within = np.concatenate([np.arange(size) for size in sizes])[places]
    is_mine = np.array([file.mine for file in files])
    (mine,) = np.nonzero(is_mine[number])
    return FileOrder(steps, tuple(files), mine, (np.cumsum(is_mine) - 1)[number[mine]], within[mine])


def _lifted(array: NDArray[Any]) -> Any:
    """A tensor outside of the graph that is being traced, which would hold a copy of it."""
    with tf.init_scope():
        return tf.constant(array, tf.int64)


def _shuffled(places: Any, sizes: Any, seed: int, passed: Any, streams: Any) -> Any:
    """Where in its own order each place is, in this pass: a bijection of each `0 .. size - 1`."""
    row = tf.ones_like(places)
    seeds = tf.cast(tf.stack([row * seed, row * passed, streams], axis=1), tf.int32)
    # the public wrapper, tf.random.experimental.index_shuffle, takes no seed for each index
    return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, max_index=sizes - 1, rounds=4)
