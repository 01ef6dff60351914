"""Divide objects among channels by hash, and mend classes that are too small for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import polars as pl

from millrace.components.manifest.spec import Split
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS, Channel

__all__ = ["divide"]

_REPAIR_ORDER: tuple[Channel, ...] = ("test", "validation", "train")


def divide(rows: pl.DataFrame, split: Split) -> tuple[pl.DataFrame, int]:
    """Add `channel`.

    Args:
        rows: Objects with `class_label`, `unit` (what must stay together) and `folder` (the channel of the
            object's folder, or null; objects of `train` and null are divided among the channels without a folder).
        split: Fractions, seed and minimum.

    Returns:
        The rows with `channel`, and how many objects were moved for the minimum.

    Raises:
        DataError: When a class is too small.
    """
    fixed = set(rows["folder"].drop_nulls().unique().to_list()) - {"train"}
    ranges = _ranges(split, fixed)
    rows = _draw(rows, split.seed, fixed, ranges)
    if rows["drawn"].is_null().all():
        raise DataError(f"there are folders for {', '.join(sorted(fixed))} but no objects to train on beside them")
    needs: dict[str, int] = {**dict.fromkeys((*ranges, *sorted(fixed)), split.minimum), "train": max(1, split.minimum)}
    moves = _repair(rows, ranges, needs)
    moved = rows.filter(pl.col("unit").is_in(list(moves))).height
    chosen = pl.col("unit").replace_strict(moves, default=pl.col("channel"), return_dtype=pl.String)
    return rows.with_columns(chosen.alias("channel")).drop("drawn", "position"), moved


def _draw(rows: pl.DataFrame, seed: int, fixed: set[str], ranges: dict[Channel, tuple[float, float]]) -> pl.DataFrame:
    """Add `position`, `drawn` (both null in the folders of `fixed` channels) and `channel`."""
    free = ~pl.col("folder").is_in(sorted(fixed)).fill_null(False)
    units = rows.filter(free).select("unit").unique(maintain_order=True)
    position = pl.Series("position", [_position(seed, unit) for unit in units["unit"]], dtype=pl.Float64)
    drawn = pl.lit("train")
    for channel, (low, high) in ranges.items():
        inside = pl.col("position").is_between(low, high, closed="left")
        drawn = pl.when(inside).then(pl.lit(channel)).otherwise(drawn)
    units = units.with_columns(position).with_columns(drawn.alias("drawn"))
    rows = rows.join(units, on="unit", how="left", maintain_order="left")
    return rows.with_columns(pl.coalesce("drawn", "folder").alias("channel"))


def _ranges(split: Split, fixed: set[str]) -> dict[Channel, tuple[float, float]]:
    """The part of [0, 1) that belongs to each channel without a folder."""
    fractions = {"train": split.train, "validation": split.validation, "test": split.test}
    open_channels: list[Channel] = [name for name in CHANNELS if name not in fixed and fractions[name] > 0]
    total = sum(fractions[name] for name in open_channels)
    ranges: dict[Channel, tuple[float, float]] = {}
    low = 0.0
    for name in open_channels:
        high = low + fractions[name] / total
        ranges[name] = (low, 1.0 if name == open_channels[-1] else high)
        low = high
    return ranges


def _position(seed: int, unit: str) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.sha256(f"{seed}:{unit}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)  # 48 bits are exact in a float


@dataclass
class _Unit:
    """What moves together: its place, its channel and its objects by class."""

    name: str
    position: float
    channel: str
    objects: dict[str, int]


def _repair(rows: pl.DataFrame, ranges: dict[Channel, tuple[float, float]], needs: dict[str, int]) -> dict[str, str]:
    """New channels by unit, so that each class has what it needs in each channel.

    Raises:
        DataError: When that is not possible.
    """
    counted = rows.group_by("class_label", "channel").len()
    counts: dict[tuple[str, str], int] = {(label, channel): number for label, channel, number in counted.iter_rows()}
    moves: dict[str, str] = {}
    for label in sorted(rows["class_label"].unique().to_list()):
        short = [name for name in _REPAIR_ORDER if counts.get((label, name), 0) < needs.get(name, 0)]
        units = _units_of(rows, label, moves) if short else []
        for name in short:
            while counts.get((label, name), 0) < needs[name]:
                unit = _nearest(units, name, ranges[name], counts, needs) if name in ranges else None
                if unit is None:
                    raise DataError(_too_small(rows, label, name, needs[name], counts.get((label, name), 0)))
                for other, number in unit.objects.items():
                    counts[other, unit.channel] -= number
                    counts[other, name] = counts.get((other, name), 0) + number
                moves[unit.name] = unit.channel = name
    return moves


def _units_of(rows: pl.DataFrame, label: str, moves: dict[str, str]) -> list[_Unit]:
    """The units that hold objects of a class and may be moved."""
    movable = rows.filter(pl.col("drawn").is_not_null())
    names = movable.filter(pl.col("class_label") == label).select("unit").unique()
    counted = movable.join(names, on="unit", how="semi").group_by("unit", "position", "channel", "class_label").len()
    units: dict[str, _Unit] = {}
    for name, position, channel, other, number in counted.sort("unit", "class_label").iter_rows():
        unit = units.setdefault(name, _Unit(name, position, str(moves.get(name, channel)), {}))
        unit.objects[other] = number
    return list(units.values())


def _nearest(
    units: list[_Unit],
    channel: Channel,
    reach: tuple[float, float],
    counts: dict[tuple[str, str], int],
    needs: dict[str, int],
) -> _Unit | None:
    """The unit nearest to a channel's range, of those whose classes can spare it where it is."""
    low, high = reach
    spare = (
        unit
        for unit in units
        if unit.channel != channel
        and all(counts[label, unit.channel] - number >= needs[unit.channel] for label, number in unit.objects.items())
    )
    return min(spare, key=lambda unit: (max(low - unit.position, unit.position - high, 0.0), unit.name), default=None)


def _too_small(rows: pl.DataFrame, label: str, channel: str, needed: int, found: int) -> str:
    mine = rows.filter(pl.col("class_label") == label)
    return (
        f"class {label!r} has {found} objects for {channel}, at least {needed} are needed, and no other channel can "
        f"spare one: it has {mine.height} objects in {mine['unit'].n_unique()} parts (equal contents and groups stay "
        "together). Add objects, leave the class out (manifest.exclude) or lower manifest.split.minimum"
    )
