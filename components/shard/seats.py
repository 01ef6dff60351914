"""Give each object its shard and its place there, by a few numbers of each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.shard.deal import cut, deal
from millrace.components.shard.earlier import Earlier, find_known
from millrace.components.shard.spec import ShardParameters
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS, Channel

__all__ = ["Listed", "Seats", "read_listed", "take_seats"]

_MOST_SHARDS = 99_999


class Listed(NamedTuple):
    """What the plan needs to know of each object, in the order of the table; some 30 bytes an object."""

    channels: NDArray[np.int8]
    """Positions in CHANNELS."""
    sizes: NDArray[np.int64]
    """In bytes."""
    rows: frozenset[Channel]
    """Channels whose objects are rows of tables."""
    hashes: NDArray[np.uint64] | None
    """Of the URIs; only to find objects in earlier shards."""


class Seats(NamedTuple):
    """Where each object goes."""

    shards: NDArray[np.int32]
    """The shard of each object, counted over all channels."""
    places: NDArray[np.int64]
    """By which the objects of a shard are ordered."""
    counts: dict[Channel, int]
    """Shards of each channel."""
    known: int
    """Objects that stay in an earlier shard."""


def read_listed(index: Path, *, hashes: bool) -> Listed:
    """The numbers of a manifest's table.

    Args:
        index: `index.parquet` of a Manifest.
        hashes: Whether the URIs' are wanted.

    Raises:
        DataError: When it can't be read, or is empty.
    """
    try:
        table = pl.scan_parquet(index, glob=False)
        is_row = pl.col("row").is_not_null() if "row" in table.collect_schema() else pl.lit(False)
        codes = {name: number for number, name in enumerate(CHANNELS)}
        channel = pl.col("channel").replace_strict(codes, return_dtype=pl.Int8)
        wanted = [channel.alias("channel"), pl.col("size").cast(pl.Int64), is_row.alias("is_row")]
        wanted += [pl.col("uri").hash(0).alias("hash")] if hashes else []
        found = table.select(wanted).collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{index.parent} is not a manifest: {type(error).__name__}: {error}") from error
    if found.is_empty():
        raise DataError(f"{index.parent}: the manifest has no objects")
    of_rows = found.group_by("channel").agg(pl.col("is_row").any()).filter("is_row")["channel"]
    return Listed(
        channels=found["channel"].to_numpy(),
        sizes=found["size"].to_numpy(),
        rows=frozenset(CHANNELS[code] for code in of_rows),
        hashes=found["hash"].to_numpy() if hashes else None,
    )


def take_seats(listed: Listed, parameters: ShardParameters, earlier: dict[Channel, Earlier]) -> Seats:
    """Seat the objects of each channel.

    Args:
        listed: The objects.
        parameters: Number of shards, and order.
        earlier: Earlier shards by channel, when there are some.

    Raises:
        DataError: When there would be shards without objects.
    """
    shards = np.empty(len(listed.sizes), dtype=np.int32)
    places = np.arange(len(listed.sizes), dtype=np.int64)
    counts: dict[Channel, int] = {}
    seated = 0
    for code, name in enumerate(CHANNELS):
        members = np.flatnonzero(listed.channels == code)
        first = sum(counts.values())
        if name in earlier and listed.hashes is not None:
            before, where, kept = find_known(earlier[name], listed.hashes[members])
            known = members[where >= 0]
            shards[known], places[known] = first + before[where >= 0], where[where >= 0]
            members = members[where < 0]
            wanted = _additional(listed.sizes[members], earlier[name])
            seated += len(known)
        else:
            kept, wanted = 0, _shards(parameters, name, len(members))
        if wanted:
            owners, places[members] = _dealt(listed.sizes[members], wanted, parameters, name, name in listed.rows)
            shards[members] = first + kept + owners
        counts[name] = kept + wanted
        if counts[name] > _MOST_SHARDS:
            raise DataError(
                f"channel {name!r} would have {counts[name]} shards, at most {_MOST_SHARDS} are allowed: leave "
                "shard.previous out, to deal all objects anew"
            )
    return Seats(shards, places, counts, seated)


def _dealt(
    sizes: NDArray[np.int64], shards: int, parameters: ShardParameters, channel: Channel, rows: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Shard and place of each object of a channel."""
    if parameters.order == "listing":
        return (cut if rows else deal)(sizes, shards), np.arange(len(sizes))
    order = np.random.default_rng([parameters.seed, CHANNELS.index(channel)]).permutation(len(sizes))
    owners = np.empty(len(sizes), dtype=np.int32)
    owners[order] = deal(sizes[order], shards)
    places = np.empty(len(sizes), dtype=np.int64)
    places[order] = np.arange(len(sizes))
    return owners, places


def _shards(parameters: ShardParameters, channel: Channel, objects: int) -> int:
    """Shards of a channel; none when it has no objects."""
    given = parameters.shards
    wanted = given if isinstance(given, int) else int(getattr(given, channel))
    if objects == 0:
        return 0
    if wanted > objects:
        raise DataError(
            f"channel {channel!r} has {objects} objects, too few for {wanted} shards: "
            f"set shard.shards.{channel} to {objects} or less, or give the channel more objects (manifest.split)"
        )
    return wanted


def _additional(sizes: NDArray[np.int64], earlier: Earlier) -> int:
    """Shards for new objects, of about the mean bytes of the earlier ones."""
    if not len(sizes):
        return 0
    mean = max(1.0, earlier.bytes / earlier.shards)
    return max(1, min(len(sizes), round(int(sizes.sum()) / mean)))
