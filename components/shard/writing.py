"""Write the table and the S3 manifest of each shard, from a lineage table that may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.shard.seats import Seats
from millrace.data.row_names import table_of
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.schemas import CHANNELS, Channel, PlannedShard

__all__ = ["write_shards"]

_AT_A_TIME = 1_000_000
_SHARD, _PLACE = "__shard", "__place"


def write_shards(
    index: Path, folder: Path, seats: Seats, context: Context, *, at_a_time: int = _AT_A_TIME
) -> dict[Channel, tuple[PlannedShard, ...]]:
    """Write all shards, reading the table once.

    Shards are taken together in groups of about `at_a_time` objects. Each part of the table is written to a temporary
    file, the rows of a group together; then each group is read back, put in order, and cut into its shards. So each
    row is written twice and read twice, however many shards there are, and only a group is in memory (or a shard, when
    one alone is larger).

    Args:
        index: `index.parquet` of a Manifest.
        folder: Of the Shards artifact.
        seats: Of its objects, in the order of the table.
        context: For progress and temporary files.
        at_a_time: Objects in memory.

    Returns:
        What was written, by channel.
    """
    for name in ("manifests", "shards"):
        (folder / name).mkdir()
    objects = np.bincount(seats.shards, minlength=sum(seats.counts.values()))
    names: list[tuple[Channel, str]] = [
        (channel, f"{channel}-{number:05d}-of-{count:05d}")
        for channel, count in seats.counts.items()
        for number in range(count)
    ]
    planned: dict[Channel, list[PlannedShard]] = {channel: [] for channel in CHANNELS}
    shard = done = 0
    for rows in _groups(index, seats, objects, context.scratch / "groups", at_a_time):
        begin = 0
        while begin < rows.height:
            mine = rows.slice(begin, int(objects[shard]))
            channel, name = names[shard]
            planned[channel].append(_write(folder, name, mine.drop(_SHARD, _PLACE)))
            shard, begin, done = shard + 1, begin + mine.height, done + mine.height
            context.progress(done, len(seats.shards), "objects")
    return {channel: tuple(shards) for channel, shards in planned.items()}


def _groups(
    index: Path, seats: Seats, objects: NDArray[np.int64], spilled: Path, at_a_time: int
) -> Iterator[pl.DataFrame]:
    """The rows of one group of shards after the other, by shard and place."""
    group_of_shard = (np.cumsum(objects) - objects) // at_a_time
    groups = int(group_of_shard[-1]) + 1
    if groups == 1:
        yield from (rows.sort(_SHARD, _PLACE) for rows in _parts(index, seats, len(seats.shards)))
        return
    pieces: list[list[tuple[int, int]]] = [[] for _ in range(groups)]
    with spilled.open("w+b") as stream:
        for rows in _parts(index, seats, at_a_time):
            _spill(rows, group_of_shard[rows[_SHARD].to_numpy()], stream, pieces)
        for places in pieces:
            found = [pl.read_ipc_stream(BytesIO(_piece(stream, *place))) for place in places]
            if found:
                yield pl.concat(found).sort(_SHARD, _PLACE)
    spilled.unlink()


def _parts(index: Path, seats: Seats, at_a_time: int) -> Iterator[pl.DataFrame]:
    """The table in parts, with shard and place of each row."""
    for begin in range(0, len(seats.shards), at_a_time):
        try:
            rows = pl.scan_parquet(index, glob=False).slice(begin, at_a_time).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{index.parent} is not a manifest: {type(error).__name__}: {error}") from error
        here = slice(begin, begin + rows.height)
        yield rows.with_columns(pl.Series(_SHARD, seats.shards[here]), pl.Series(_PLACE, seats.places[here]))


def _spill(
    rows: pl.DataFrame, groups: NDArray[np.int64], stream: BinaryIO, pieces: list[list[tuple[int, int]]]
) -> None:
    rows = rows[np.argsort(groups, kind="stable")]
    begin = 0
    for group, height in enumerate(np.bincount(groups)):
        if not height:
            continue
        start = stream.tell()
        rows.slice(begin, int(height)).write_ipc_stream(stream, compression="lz4")
        pieces[group].append((start, stream.tell() - start))
        begin += int(height)


def _piece(stream: BinaryIO, start: int, length: int) -> bytes:
    stream.seek(start)
    return stream.read(length)


def _write(folder: Path, name: str, rows: pl.DataFrame) -> PlannedShard:
    rows.write_parquet(folder / "shards" / f"{name}.parquet", compression="zstd")
    prefix = str(rows["prefix"][0])
    uris = rows["uri"]
    if "row" in rows.columns and rows["row"].null_count() < rows.height:
        uris = rows.select(table_of("uri"))["uri"].unique(maintain_order=True)
    entries = json.dumps(
        [{"prefix": prefix}, *uris.str.strip_prefix(prefix)], ensure_ascii=False, separators=(",\n", ":")
    )
    (folder / "manifests" / f"{name}.manifest").write_text(f"{entries}\n", encoding="utf-8")
    return PlannedShard(file=f"{name}.parquet", objects=rows.height, bytes=int(rows["size"].sum()))
