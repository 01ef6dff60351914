"""Channels that objects keep from an earlier manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.earlier import Earlier, Known, Pins, look_up
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS

__all__ = ["content_pins", "pinned"]


def pinned(
    objects: Objects,
    units: NDArray[np.uint64],
    free: NDArray[np.bool_],
    known: Known,
    fixed: Sequence[int],
) -> NDArray[np.int8]:
    """The channel that each object must have, `NOWHERE` for those that are new in every way.

    That of its group counts most, then its own, if its content has not changed, then that of its content, then its own:
    what belongs together gets one channel.

    Args:
        objects: All of them.
        units: What must stay together, a number for each object.
        free: Those that are in no folder of a channel.
        known: What the earlier manifest knows of them.
        fixed: Channels with folders of their own.

    Raises:
        DataError: When one group now has objects that were in two channels.
    """
    earlier, before, _ = known
    pins = np.full(len(objects), NOWHERE, np.int8)
    if objects.group is not None:
        of_group = look_up(earlier.groups, objects.group[free])
        pins[free] = np.where(np.isin(of_group, fixed), NOWHERE, of_group)
    for strict in (True, False):
        rest = np.flatnonzero(free & (pins == NOWHERE))
        told = content_pins(earlier, objects.content[rest], before[rest], fixed)
        if strict:  # objects that are what they were; contents that lie elsewhere now come after them
            told = np.where(told == own_pins(earlier, before[rest]), told, NOWHERE).astype(np.int8)
        pins[rest] = look_up(_of_units(units[rest], told, strict=strict), units[rest])
    rest = np.flatnonzero(free & (pins == NOWHERE))
    pins[rest] = look_up(_of_units(units[rest], own_pins(earlier, before[rest]), strict=False), units[rest])
    return pins


def content_pins(
    earlier: Earlier, content: NDArray[np.uint64], before: NDArray[np.int64], fixed: Sequence[int]
) -> NDArray[np.int8]:
    """The channel in which each content was.

    A channel with a folder of its own takes from elsewhere only what was in it already: a copy of a test object that
    lies in the folder of train must not become another test object.
    """
    pins = look_up(earlier.contents, content)
    taken = np.isin(pins, fixed) & (pins != own_pins(earlier, before))
    return np.where(taken, NOWHERE, pins).astype(np.int8)


def own_pins(earlier: Earlier, before: NDArray[np.int64]) -> NDArray[np.int8]:
    """The channel in which each object was."""
    if not len(earlier.channel):
        return np.full(len(before), NOWHERE, np.int8)
    return np.where(before >= 0, earlier.channel[before], NOWHERE).astype(np.int8)


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
