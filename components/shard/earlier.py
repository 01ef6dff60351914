"""Shards of an earlier run, in which objects stay."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.earlier import earlier_folder
from millrace.runtime.schemas import Channel, Dealing, ShardPlan, read_json_model

__all__ = ["Earlier", "find_known", "read_earlier"]


class Earlier(NamedTuple):
    """The objects of a channel's earlier shards, by the hashes of their URIs."""

    hashes: NDArray[np.uint64]
    """Ascending; objects whose hashes are the same count as one, the other gets a shard as a new object does."""
    owners: NDArray[np.int32]
    """The shard of each."""
    places: NDArray[np.int64]
    """The row of each in its shard."""
    shards: int
    bytes: int
    """Of all objects."""


def read_earlier(location: str, scratch: Path) -> tuple[dict[Channel, Earlier], Dealing | None]:
    """Earlier shards, of the channels that have some, and how they were dealt, where that is known.

    Args:
        location: As `shard.previous` names it.
        scratch: Folder for temporary files.

    Raises:
        DataError: When there are none, or they can't be read.
    """
    folder = earlier_folder(location, "shards", scratch, names=("plan.json", "shards/*"))
    plan = read_json_model(folder / "plan.json", ShardPlan)
    found: dict[Channel, Earlier] = {}
    for channel, shards in plan.shards.items():
        if not shards:
            continue
        hashes, owners, places = [], [], []
        for number, shard in enumerate(shards):
            uris = _uris(folder / "shards" / shard.file)
            hashes.append(uris.hash(0).to_numpy())
            owners.append(np.full(len(uris), number, dtype=np.int32))
            places.append(np.arange(len(uris), dtype=np.int64))
        unique, first = np.unique(np.concatenate(hashes), return_index=True)
        found[channel] = Earlier(
            hashes=unique,
            owners=np.concatenate(owners)[first],
            places=np.concatenate(places)[first],
            shards=len(shards),
            bytes=sum(shard.bytes for shard in shards),
        )
    return found, plan.dealing


def find_known(earlier: Earlier, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Where objects were, when shards of which nothing is left are gone.

    Returns:
        The shard of each object; its row there, -1 for new objects; and how many shards are left.
    """
    by_hash = np.argsort(hashes)
    ordered = hashes[by_hash]
    at = np.minimum(np.searchsorted(earlier.hashes, ordered), len(earlier.hashes) - 1)
    repeated = np.zeros(len(ordered), dtype=bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    known = (earlier.hashes[at] == ordered) & ~repeated
    shards = np.zeros(len(hashes), dtype=np.int32)
    places = np.full(len(hashes), -1, dtype=np.int64)
    left = np.unique(earlier.owners[at[known]])
    shards[by_hash[known]] = np.searchsorted(left, earlier.owners[at[known]])
    places[by_hash[known]] = earlier.places[at[known]]
    return shards, places, len(left)


def _uris(file: Path) -> pl.Series:
    try:
        return pl.read_parquet(file, columns=["uri"], glob=False)["uri"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{file} is not a shard: {type(error).__name__}: {error}") from error
