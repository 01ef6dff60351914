"""Write the plan, and a manifest and a table for each shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.shard.deal import deal
from millrace.components.shard.spec import ShardInputs, ShardOutputs, ShardParameters
from millrace.errors import DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import CHANNELS, Channel, PlannedShard, ShardPlan

__all__ = ["main"]


def main(parameters: ShardParameters, inputs: ShardInputs, outputs: ShardOutputs, context: Context) -> Result:
    """Deal each channel's objects and write its shards."""
    index, classes = _read(inputs.manifest.path)
    channels: dict[Channel, pl.DataFrame] = {name: index.filter(pl.col("channel") == name) for name in CHANNELS}
    counts = {name: _shards(parameters, name, rows.height) for name, rows in channels.items()}
    for folder in ("manifests", "shards"):
        (outputs.shards.path / folder).mkdir()
    plan: dict[Channel, tuple[PlannedShard, ...]] = {}
    written, total = 0, sum(counts.values())
    for name in CHANNELS:
        planned = []
        for number, rows in enumerate(_dealt(channels[name], name, counts[name], parameters)):
            planned.append(_write(outputs.shards.path, f"{name}-{number:05d}-of-{counts[name]:05d}", rows))
            written += 1
            context.progress(written, total, "shards")
        plan[name] = tuple(planned)
    text = ShardPlan(classes=classes, shards=plan).model_dump_json(indent=2)
    (outputs.shards.path / "plan.json").write_text(f"{text}\n", encoding="utf-8")
    imbalance = max(_imbalance(planned) for planned in plan.values())
    context.log.info("%d objects in %d shards, imbalance %.2f%%", index.height, total, 100 * imbalance)
    return Result(
        metrics={"objects": index.height, "imbalance": imbalance},
        metadata={"shards": {"shards": {name: len(planned) for name, planned in plan.items()}}},
    )


def _read(manifest: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    try:
        index = pl.read_parquet(manifest / "index.parquet")
        classes = json.loads((manifest / "classes.json").read_bytes())["classes"]
    except (OSError, pl.exceptions.PolarsError, ValueError, KeyError) as error:
        raise DataError(f"{manifest} is not a manifest: {type(error).__name__}: {error}") from error
    if index.is_empty():
        raise DataError(f"{manifest}: the manifest has no objects")
    return index.sort("key", "uri"), tuple(classes)


def _shards(parameters: ShardParameters, channel: Channel, objects: int) -> int:
    """Shards of a channel; none when it has no objects.

    Raises:
        DataError: When there would be shards without objects.
    """
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


def _dealt(rows: pl.DataFrame, channel: Channel, shards: int, parameters: ShardParameters) -> Iterator[pl.DataFrame]:
    if shards == 0:
        return
    if parameters.order == "shuffled":
        order = np.random.default_rng([parameters.seed, CHANNELS.index(channel)]).permutation(rows.height)
        rows = rows[order]
    sizes: NDArray[np.int64] = rows["size"].cast(pl.Int64).to_numpy()
    owners = deal(sizes, shards)
    by_owner = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=shards))
    for members in np.split(by_owner, ends[:-1]):
        yield rows[members]


def _write(folder: Path, name: str, rows: pl.DataFrame) -> PlannedShard:
    rows.write_parquet(folder / "shards" / f"{name}.parquet", compression="zstd")
    prefix = str(rows["prefix"][0])
    entries = [{"prefix": prefix}, *(uri.removeprefix(prefix) for uri in rows["uri"])]
    text = json.dumps(entries, ensure_ascii=False, separators=(",\n", ":"))
    (folder / "manifests" / f"{name}.manifest").write_text(f"{text}\n", encoding="utf-8")
    return PlannedShard(file=f"{name}.parquet", objects=rows.height, bytes=int(rows["size"].sum()))


def _imbalance(planned: tuple[PlannedShard, ...]) -> float:
    sizes = [item.bytes for item in planned]
    return max(sizes) * len(sizes) / sum(sizes) - 1 if sum(sizes) else 0.0
