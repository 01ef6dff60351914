"""Divide objects among channels by hash, and mend classes that are too small for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millrace.components.manifest.earlier import Known
from millrace.components.manifest.hashes import mix
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.components.manifest.pins import pinned
from millrace.components.manifest.spec import Split
from millrace.components.manifest.together import fixed_channels
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS, Channel

__all__ = ["divide"]

_REPAIR_ORDER: tuple[Channel, ...] = ("test", "validation", "train")
_FEW = 10
"""Objects of a class, of which numbers that are classes have more."""


def divide(
    objects: Objects,
    known: Known | None,
    split: Split,
    names: Sequence[str],
    classes: Sequence[str],
) -> tuple[NDArray[np.int8], int]:
    """The channel of each object: an index of `CHANNELS`, or `NOWHERE` for what is set aside.

    Args:
        objects: With the channels of folders; objects of `train` and of none are divided among the channels without
            a folder.
        known: What an earlier manifest knows of them: that keeps its channel.
        split: Fractions, seed and minimum.
        names: Of the classes by number.
        classes: Those that are needed in each channel.

    Returns:
        The channels, and how many objects were moved for the minimum.

    Raises:
        DataError: When a class is too small.
    """
    fixed = fixed_channels(objects)
    ranges = _ranges(split, fixed)
    free = objects.inside & ~np.isin(objects.folder, fixed)
    if not free.any():
        named = ", ".join(sorted(CHANNELS[code] for code in fixed))
        raise DataError(f"there are folders for {named} but no objects to train on beside them")
    units = objects.units()
    positions = mix(units ^ mix(np.array([split.seed], np.uint64))).astype(np.float64) / 2.0**64
    channels = np.where(objects.inside, objects.folder, NOWHERE).astype(np.int8)
    for code, (low, high) in ranges.items():
        channels[free & (positions >= low) & (positions < high)] = code
    if known is not None:
        pins = pinned(objects, units, free, known, fixed)
        channels[pins != NOWHERE] = pins[pins != NOWHERE]
        free &= pins == NOWHERE
    needs = dict.fromkeys((*ranges, *fixed), split.minimum)
    needs[0] = max(1, split.minimum)
    repair = _Repair(channels, free, units, positions, objects.label, ranges, needs, names, classes)
    return channels, repair.all()


def _ranges(split: Split, fixed: Sequence[int]) -> dict[int, tuple[float, float]]:
    """The part of [0, 1) that belongs to each channel without a folder."""
    fractions = (split.train, split.validation, split.test)
    codes = [code for code in range(len(CHANNELS)) if code not in fixed and fractions[code] > 0]
    total = sum(fractions[code] for code in codes)
    ends = np.cumsum([0.0] + [fractions[code] / total for code in codes])
    ends[-1] = np.inf  # the largest hashes are 1 as floats
    return {code: (float(ends[at]), float(ends[at + 1])) for at, code in enumerate(codes)}


@dataclass
class _Repair:
    """Moves objects so that each class has what it needs in each channel."""

    channels: NDArray[np.int8]
    """Changed in place."""
    movable: NDArray[np.bool_]
    units: NDArray[np.uint64]
    positions: NDArray[np.float64]
    label: NDArray[np.int32]
    ranges: dict[int, tuple[float, float]]
    needs: dict[int, int]
    names: Sequence[str]
    classes: Sequence[str]

    def __post_init__(self) -> None:
        inside = self.channels != NOWHERE
        codes = self.label[inside].astype(np.int64) * len(CHANNELS) + self.channels[inside]
        counts = np.bincount(codes, minlength=len(self.names) * len(CHANNELS))
        self.counts = counts.reshape(len(self.names), len(CHANNELS))

    def all(self) -> int:
        """Mend all classes; how many objects were moved.

        Raises:
            DataError: When that is not possible.
        """
        needs = np.array([self.needs.get(code, 0) for code in range(len(CHANNELS))])
        needed = set(self.classes)
        wanted = np.array([name in needed for name in self.names])
        short = np.flatnonzero((self.counts < needs).any(axis=1) & wanted)
        if not len(short):
            return 0
        before = self.channels.copy()
        can = np.flatnonzero(self.movable)
        self._by_label = can[np.argsort(self.label[can], kind="stable")]
        self._labels = self.label[self._by_label]
        self._by_unit = can[np.argsort(self.units[can], kind="stable")]
        self._units = self.units[self._by_unit]
        for label in sorted(short.tolist(), key=lambda number: self.names[number]):
            for channel in _REPAIR_ORDER:
                self._mend(label, CHANNELS.index(channel))
        return int((self.channels != before).sum())

    def _mend(self, label: int, channel: int) -> None:
        needed = self.needs.get(channel, 0)
        if self.counts[label, channel] >= needed:
            return
        low, high = np.searchsorted(self._labels, [label, label + 1])
        mine = self._by_label[low:high]
        for unit in self._candidates(mine, channel) if channel in self.ranges else ():
            self._move(unit, channel)
            if self.counts[label, channel] >= needed:
                return
        raise self._too_small(label, channel, needed)

    def _candidates(self, mine: NDArray[np.int64], channel: int) -> list[int]:
        """Units of a class that are elsewhere, those nearest to the channel's range first."""
        mine = mine[self.channels[mine] != channel]
        low, high = self.ranges[channel]
        distances = np.maximum(low - self.positions[mine], self.positions[mine] - high)
        units = self.units[mine[np.lexsort((self.units[mine], distances))]]
        first = np.ones(len(units), np.bool_)
        first[1:] = units[1:] != units[:-1]
        chosen: list[int] = units[first].tolist()
        return chosen

    def _move(self, unit: int, channel: int) -> None:
        """Move a unit, unless a class of it would have too little where it is."""
        low = np.searchsorted(self._units, np.uint64(unit), side="left")
        high = np.searchsorted(self._units, np.uint64(unit), side="right")
        rows = self._by_unit[low:high]
        source = int(self.channels[rows[0]])
        labels, numbers = np.unique(self.label[rows], return_counts=True)
        if (self.counts[labels, source] - numbers < self.needs.get(source, 0)).any():
            return
        self.counts[labels, source] -= numbers
        self.counts[labels, channel] += numbers
        self.channels[rows] = channel

    def _too_small(self, label: int, channel: int, needed: int) -> DataError:
        mine = np.flatnonzero((self.label == label) & (self.channels != NOWHERE))
        parts = len(np.unique(self.units[mine]))
        told = (
            f"class {self.names[label]!r} has {self.counts[label, channel]} objects for {CHANNELS[channel]}, at least "
            f"{needed} are needed, and no other channel can spare one: it has {len(mine)} objects in {parts} parts "
            "(equal contents and groups stay together, and what manifest.previous knows keeps its channel). "
        )
        if self._are_numbers():
            rows, classes = int(self.counts.sum()), len(self.classes)
            return DataError(
                f"{told}{rows} objects have {classes} classes, and all are numbers: is manifest.labels.column a class? "
                "Regression is not offered; to classify, make ranges of the numbers in the table"
            )
        advice = ["leave the class out (manifest.exclude; of rows name the others in manifest.classes)"]
        if needed > (channel == 0):
            advice.append("lower manifest.split.minimum")
        if len(self.needs) > len(self.ranges):
            advice.append("set manifest.split.folders=ignore to divide all objects anew")
        least = "Every class needs an object to train on. " if channel == 0 and needed == 1 else ""
        return DataError(f"{told}{least}Add objects, {' or '.join(advice)}")

    def _are_numbers(self) -> bool:
        """Whether the classes look like values that were measured."""
        if self.counts.sum() >= _FEW * len(self.classes):
            return False
        try:
            return len([float(name) for name in self.classes]) > _FEW
        except ValueError:
            return False
