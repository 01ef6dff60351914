"""Channels that objects keep from an earlier manifest."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.earlier import Earlier, Pins, look_up
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS

__all__ = ["pinned"]


def pinned(
    objects: Objects,
    units: NDArray[np.uint64],
    free: NDArray[np.bool_],
    earlier: Earlier,
    before: NDArray[np.int64],
) -> NDArray[np.int8]:
    """The channel that each object must have, `NOWHERE` for those that are new in every way.

    That of its group counts most, then that of its content, then that of the object itself, whose content has
    changed: what belongs together gets one channel.

    Args:
        objects: All of them.
        units: What must stay together, a number for each object.
        free: Those that are in no folder of a channel.
        earlier: The earlier manifest.
        before: The position there of each object.

    Raises:
        DataError: When one group now has objects that were in two channels.
    """
    pins = np.full(len(objects), NOWHERE, np.int8)
    if objects.group is not None:
        pins[free] = look_up(earlier.groups, objects.group[free])
    rest = np.flatnonzero(free & (pins == NOWHERE))
    pins[rest] = look_up(
        _of_units(units[rest], look_up(earlier.contents, objects.content[rest]), strict=True), units[rest]
    )
    rest = rest[pins[rest] == NOWHERE]
    own = np.where(before[rest] >= 0, earlier.channel[before[rest]], NOWHERE)
    pins[rest] = look_up(_of_units(units[rest], own, strict=False), units[rest])
    return pins


def _of_units(units: NDArray[np.uint64], channels: NDArray[np.int8], *, strict: bool) -> Pins:
    """One channel for each unit of which any object has one: the one that is tested with, when there are several."""
    known = channels != NOWHERE
    table = pl.DataFrame({"unit": units[known], "channel": channels[known]})
    table = table.group_by("unit").agg(pl.col("channel").min().alias("low"), pl.col("channel").max()).sort("unit")
    parted = table.filter(pl.col("low") != pl.col("channel"))
    if strict and parted.height:
        low, high = parted.select("low", "channel").row(0)
        raise DataError(
            f"{parted.height} groups have objects that manifest.previous has in two channels ({CHANNELS[low]} and "
            f"{CHANNELS[high]} for one): groups must not be parted; leave manifest.previous out to divide all anew, or "
            "group as it did"
        )
    return Pins(table["unit"].to_numpy(), table["channel"].to_numpy())
