"""This worker's shards: which they are, their objects, and a digest of all that a record file depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import polars

from millrace.components.preprocess.kinds import Kind
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.errors import ConfigError, DataError
from millrace.runtime.schemas import Channel, ShardPlan
from millrace.specs import Dataset

__all__ = ["Shard", "find_shards", "made_from", "read_rows"]

_COLUMNS = {
    "uri": polars.String,
    "row": polars.Int64,
    "label": polars.Int64,
    "content": polars.String,
    "size": polars.Int64,
    "etag": polars.String,
    "version": polars.String,
}
"""What a record file depends on. Not the time of the last change: a copy of a folder has the same objects."""
_OTHERS = {"key": polars.String, "dataset_path": polars.String}
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
    known = {**_COLUMNS, **_OTHERS}
    there = polars.read_parquet_schema(shard.file)  # tables that other tools wrote lack some
    rows = polars.read_parquet(shard.file, columns=[name for name in known if name in there])
    if rows.height != shard.objects:
        raise DataError(f"{shard.file} has {rows.height} objects, plan.json says {shard.objects}; run shard again")
    rows = rows.with_columns(polars.lit(None).alias(name) for name in known if name not in there)
    rows = rows.cast(polars.Schema(known))
    file = polars.coalesce(polars.col("uri").str.strip_suffix(polars.format("#row={}", "row")), "uri")
    if rows["dataset_path"].null_count() == rows.height:
        return rows.with_columns(place=file)
    if dataset is None:
        raise ConfigError(
            f"the shards name objects of a dataset that an earlier task made, {rows['uri'][0]} for one: "
            f"preprocess needs the same input `dataset` as manifest"
        )
    inside = polars.lit(f"{dataset.path.absolute().as_uri()}/") + polars.col("dataset_path")
    return rows.with_columns(place=polars.coalesce(inside, file))


def made_from(rows: polars.DataFrame, kind: Kind, parameters: PreprocessParameters) -> str:
    """A digest that changes with whatever the shard's record file depends on; not with the shard's name."""
    preparation = [
        preprocess.spec.version,
        kind.schema.model_dump(mode="json"),
        parameters.data.model_dump(mode="json"),
        kind.depends_on,
    ]
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    for row in rows.select(*_COLUMNS).iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
