"""Divide texts among channels by hash, and mend classes that are too small for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from millrace.components.tokenize.spec import Split
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS, Channel

__all__ = ["LEAK", "OPEN", "divide", "key_of"]

OPEN = -1
"""Of a row whose channel is not said by its file."""
LEAK = -2
"""Of a row whose text is in a file of another channel."""

_BITS = 64


def key_of(text: str, seed: int) -> int:
    """A number below 2**64 that depends on nothing else; texts that differ in space only have the same."""
    words = " ".join(text.split())
    return int.from_bytes(hashlib.sha256(f"{seed}:{words}".encode()).digest()[: _BITS // 8], "big")


def divide(
    keys: NDArray[np.uint64], labels: NDArray[np.int32], given: NDArray[np.int8], classes: Sequence[str], split: Split
) -> NDArray[np.int8]:
    """The channel of each row: an index of `CHANNELS`, or `LEAK`.

    Args:
        keys: Of the rows' texts, [N].
        labels: Classes, [N].
        given: The channel that the row's file says, or `OPEN`, [N].
        classes: Names.
        split: Fractions and minimum.

    Raises:
        DataError: When there is nothing to train on, or a class is too small.
    """
    channels = given.copy()
    fixed = [index for index in range(len(CHANNELS)) if (given == index).any()]
    for index in reversed(fixed):  # what is tested with counts most
        elsewhere = (channels != index) & (channels != LEAK)
        channels[elsewhere & np.isin(keys, keys[given == index])] = LEAK
    free = channels == OPEN
    if not free.any():
        named = ", ".join(CHANNELS[index] for index in fixed)
        raise DataError(f"there are files of {named} but no texts to train on beside them")
    ranges = _ranges(split, fixed)
    positions = keys.astype(np.float64) / 2.0**_BITS
    for channel, (low, high) in ranges.items():
        channels[free & (positions >= low) & (positions < high)] = CHANNELS.index(channel)
    _repair(channels, free, keys, labels, positions, ranges, classes, split.minimum)
    return channels


def _ranges(split: Split, fixed: Sequence[int]) -> dict[Channel, tuple[float, float]]:
    """The part of [0, 1) that belongs to each channel without files of its own."""
    fractions = {"train": split.train, "validation": split.validation, "test": split.test}
    names: list[Channel] = [name for at, name in enumerate(CHANNELS) if at not in fixed and fractions[name] > 0]
    total = sum(fractions[name] for name in names)
    ends = np.cumsum([0.0] + [fractions[name] / total for name in names])
    ends[-1] = np.inf  # the largest keys are 1 as floats
    return {name: (float(ends[at]), float(ends[at + 1])) for at, name in enumerate(names)}


def _repair(
    channels: NDArray[np.int8],
    free: NDArray[np.bool_],
    keys: NDArray[np.uint64],
    labels: NDArray[np.int32],
    positions: NDArray[np.float64],
    ranges: Mapping[Channel, tuple[float, float]],
    classes: Sequence[str],
    minimum: int,
) -> None:
    """Move texts of `free` rows to channels that have too few of their class, in place.

    Raises:
        DataError: When no other channel can spare one.
    """
    needs: dict[Channel, int] = {name: max(1, minimum) if name == "train" else minimum for name in ranges}
    counts: dict[Channel, NDArray[np.intp]] = {
        name: np.bincount(labels[channels == CHANNELS.index(name)], minlength=len(classes)) for name in ranges
    }
    for name in reversed(list(ranges)):
        low, high = ranges[name]
        for label in np.flatnonzero(counts[name] < needs[name]).tolist():
            mine = np.flatnonzero(free & (labels == label) & (channels != CHANNELS.index(name)))
            distances = np.maximum(low - positions[mine], positions[mine] - high)
            for row in mine[np.lexsort((keys[mine], distances))].tolist():
                if counts[name][label] >= needs[name]:
                    break
                _move(np.flatnonzero(free & (keys == keys[row])), name, channels, labels, counts, needs)
            if counts[name][label] < needs[name]:
                raise _too_small(classes[label], name, int(counts[name][label]), needs[name])


def _move(
    rows: NDArray[np.intp],
    name: Channel,
    channels: NDArray[np.int8],
    labels: NDArray[np.int32],
    counts: dict[Channel, NDArray[np.intp]],
    needs: Mapping[Channel, int],
) -> None:
    """Move the rows of one text, unless a class would have too few where they are."""
    source = CHANNELS[int(channels[rows[0]])]
    moved = np.bincount(labels[rows], minlength=len(counts[name]))
    if source == name or ((counts[source] - moved < needs[source]) & (moved > 0)).any():
        return
    channels[rows] = CHANNELS.index(name)
    counts[source] -= moved
    counts[name] += moved


def _too_small(label: str, channel: Channel, found: int, needed: int) -> DataError:
    return DataError(
        f"class {label!r} has {found} texts for {channel}, at least {needed} are needed, and no other channel can "
        "spare one (equal texts stay together). Add texts, leave the class out (tokenize.classes names the others) or "
        "lower tokenize.split.minimum"
    )
