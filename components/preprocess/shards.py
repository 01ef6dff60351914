"""This worker's shards: which they are, their objects, and a digest of all that a record file depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import polars

from millrace.components.preprocess.kinds import Kind
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.data.rows import objects_of
from millrace.errors import DataError
from millrace.runtime.code import code_digest
from millrace.runtime.schemas import Channel, ShardPlan
from millrace.specs import Dataset

__all__ = ["Shard", "find_shards", "made_from", "read_rows", "would_show"]

_COLUMNS = {
    "uri": polars.String,
    "key": polars.String,
    "row": polars.Int64,
    "label": polars.Int64,
    "content": polars.String,
    "row_digest": polars.String,
    "size": polars.Int64,
    "etag": polars.String,
    "version": polars.String,
    "modified": polars.Int64,
}
_DIGESTS = ("content", "row_digest")
_SIGNS = (*_DIGESTS, "etag")
_CODE = ("data", "runtime", "specs")
"""Packages of the framework that records are made with."""
_SHOWN = 5


class Shard(NamedTuple):
    """One of this worker's shards."""

    channel: Channel
    file: Path
    """Its table."""
    objects: int

    @property
    def name(self) -> str:
        """`CHANNEL-IIIII-of-NNNNN`."""
        return self.file.stem


def find_shards(source: Path, plan: ShardPlan) -> list[Shard]:
    """The shards that are here, by file name; on some targets a host is given its own ones only.

    Raises:
        DataError: When there are none, or others than planned.
    """
    planned: dict[str, tuple[Channel, int]] = {
        item.file: (channel, item.objects) for channel, items in plan.shards.items() for item in items
    }
    files = sorted((source / "shards").glob("*.parquet"))
    unknown = [file.name for file in files if file.name not in planned]
    if unknown or not files:
        what = f"holds files that plan.json does not name: {unknown[:_SHOWN]}" if unknown else "has no shard files"
        raise DataError(f"{source / 'shards'} {what}; give the whole output of the shard component")
    return [Shard(planned[file.name][0], file, planned[file.name][1]) for file in files]


def read_rows(shard: Shard, dataset: Dataset | None) -> polars.DataFrame:
    """The shard's objects; `place` is where each is read.

    Raises:
        ConfigError: When some are in a dataset that is not given.
        DataError: When there are more or fewer than planned.
    """
    rows = objects_of(shard.file, dataset, "preprocess", _COLUMNS)
    if rows.height != shard.objects:
        raise DataError(f"{shard.file} has {rows.height} objects, plan.json says {shard.objects}; run shard again")
    return rows


def would_show(rows: polars.DataFrame) -> bool:
    """Whether any change of an object would be seen in the table: a digest, an etag, or a time of each is there."""
    timed = polars.col("modified").fill_null(0) != 0
    return bool(rows.select(polars.any_horizontal(polars.col(*_SIGNS).is_not_null(), timed).all()).item())


def made_from(rows: polars.DataFrame, kind: Kind, parameters: PreprocessParameters) -> str:
    """A digest that changes with whatever the shard's record file depends on; not with the shard's name.

    What the store tells of an object counts where its digest is not known: rows that are appended to a table give it
    another ETag, and a copy of a folder has the same objects.
    """
    preparation = [
        code_digest(preprocess.spec.main.partition(":")[0], _CODE),
        kind.schema.model_dump(mode="json"),
        parameters.data.model_dump(mode="json"),
    ]
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    read = polars.any_horizontal(polars.col(*_DIGESTS).is_not_null())
    silent = polars.all_horizontal(polars.col(*_SIGNS).is_null())
    told = rows.select(
        *("uri", "row", "label", *_DIGESTS),
        *(polars.when(~read).then(name).alias(name) for name in ("size", "etag")),
        *(polars.when(silent).then(name).alias(name) for name in ("version", "modified")),
    )
    for row in told.iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
