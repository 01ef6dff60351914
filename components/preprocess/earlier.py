"""Shards that an earlier run has made already."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from millrace.components.preprocess.rejects import write_rejects
from millrace.components.preprocess.shards import Shard
from millrace.components.preprocess.spec import Previous
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.earlier import earlier_folder
from millrace.runtime.schemas import ShardCounts, read_json_model
from millrace.runtime.union import hard_link

__all__ = ["Earlier", "find_earlier", "take_earlier"]


class Earlier(NamedTuple):
    """A shard of an earlier run."""

    counts: ShardCounts
    records: Path
    """Its record file."""
    rejects: Path | None
    """Its table of rejects; None when nothing was rejected and that is not there."""


def find_earlier(previous: Previous | None, wanted: Collection[str], context: Context) -> dict[str, Earlier]:
    """The whole shards of an earlier run that were made from what is wanted, by its digest.

    Of artifacts in buckets no more than these is copied.

    Raises:
        ConfigError: When `previous` names no place.
        DataError: When there is nothing.
    """
    if previous is None or not wanted:
        return {}
    folder = earlier_folder(previous.records, "records", context.scratch, names=("*.json",))
    if not (folder / "schema.json").is_file():
        raise DataError(f"preprocess.previous.records: {previous.records!r} holds no records, it has no schema.json")
    told = [read_json_model(file, ShardCounts) for file in sorted(folder.glob("*-of-*.json"))]
    usable = [counts for counts in told if counts.made_from in wanted]
    if not usable:
        return {}
    files = tuple(counts.file for counts in usable)
    records = earlier_folder(previous.records, "records", context.scratch, names=files)
    tables = _tables(previous, usable, context)
    found: dict[str, Earlier] = {}
    for counts in usable:
        file, table = records / counts.file, tables.get(counts.file)
        whole = file.is_file() and file.stat().st_size == counts.bytes
        if whole and (table is not None or not counts.rejected):
            found[counts.made_from] = Earlier(counts, file, table)
    return found


def _tables(previous: Previous, usable: Sequence[ShardCounts], context: Context) -> dict[str, Path]:
    """The tables of rejects that can be found, by the name of the record file."""
    if previous.rejects is None and not previous.records.startswith("run:"):
        return {}
    names = {f"rejects-{Path(counts.file).stem}.parquet": counts.file for counts in usable}
    folder = earlier_folder(previous.rejects or previous.records, "rejects", context.scratch, names=tuple(names))
    return {file: folder / name for name, file in names.items() if (folder / name).is_file()}


def take_earlier(earlier: Earlier, shard: Shard, folder: Path) -> None:
    """Put an earlier shard's files into a folder, under this shard's name."""
    name = shard.name
    hard_link(earlier.records, folder / f"{name}.tfrecord")
    rejects = folder / f"rejects-{name}.parquet"
    if earlier.rejects is None:
        write_rejects(rejects, ())
    else:
        hard_link(earlier.rejects, rejects)
    counts = earlier.counts.model_copy(update={"file": f"{name}.tfrecord", "channel": shard.channel})
    (folder / f"{name}.json").write_text(counts.model_dump_json(indent=2) + "\n")
