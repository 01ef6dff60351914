"""The plan of shards beside a greedy one in plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.plan import Case, Contender, Limit, Ratio, Setting

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Shards"
ABOUT = (
    "Objects with sizes as photographs have them (log-normal, median 60 kB) are dealt into 1,024 shards. Ours reads "
    "the sizes from a manifest's lineage table of 14 columns and keeps numbers equal, too; plain Python reads the "
    "sizes alone and looks at bytes only."
)

_SHARDS = 1_024
_PART = 50_000


def cases(setting: Setting) -> Iterator[Case]:
    """The plan alone, of sizes alike and of sizes that differ much; then the plan and all files."""
    for name, sigma, told in (("plan", 1.0, ""), ("plan-skewed", 1.6, ", sizes that differ more")):
        if setting.wants(name):
            yield _plan(name, sigma, told, setting)
    if setting.wants("write"):
        objects = setting.size(1_000_000, 5_000)
        index, _ = _made(setting.scratch / "write", objects, 1.0)
        yield Case(
            name="write",
            title=f"Plan and files of {objects:,} objects in {_SHARDS:,} shards",
            unit="objects",
            contenders=(
                Contender(
                    about="the component shard: a table and an S3 manifest for each shard",
                    script="ours/shard.py",
                    arguments={"index": str(index), "shards": _SHARDS, "folder": str(setting.scratch)},
                    packages=("polars", "numpy"),
                ),
            ),
        )


def _plan(name: str, sigma: float, told: str, setting: Setting) -> Case:
    objects = setting.size(10_000_000, 20_000)
    index, sizes = _made(setting.scratch / name, objects, sigma)
    return Case(
        name=name,
        title=f"Plan of {objects:,} objects in {_SHARDS:,} shards{told}",
        unit="objects",
        contenders=(
            Contender(
                about="read_listed and take_seats of the component shard",
                script="ours/shard.py",
                arguments={"index": str(index), "shards": _SHARDS},
                packages=("polars", "numpy"),
            ),
            Contender(
                name="greedy",
                about="sorted and heapq.heapreplace, plain Python",
                script="peers/shard_greedy.py",
                arguments={"sizes": str(sizes), "shards": _SHARDS},
            ),
        ),
        ratios=(Ratio(beside="greedy", metric="seconds", target=1.0), Ratio(beside="greedy", metric="peak_bytes")),
        limits=(
            Limit(figure="seconds", most=10),
            Limit(figure="difference_of_numbers", most=1),
            *((Limit(figure="imbalance_percent", most=1),) if objects > 1_000_000 else ()),
        ),
    )


def _made(folder: Path, objects: int, sigma: float) -> tuple[Path, Path]:
    """A lineage table in parts as `manifest` writes it, and the sizes alone."""
    folder.mkdir(parents=True)
    sizes = np.random.default_rng(7).lognormal(np.log(60_000), sigma, objects).astype(np.int64)
    sizes.tofile(folder / "sizes")
    number = pl.col("number")
    key = pl.format("photographs/{}/{}.jpg", number % 1000, number)
    columns = (
        pl.concat_str(pl.lit("s3://bucket/"), key).alias("uri"),
        pl.lit("s3://bucket/").alias("prefix"),
        key.alias("key"),
        pl.format("class-{}", number % 1000).alias("class_label"),
        (number % 1000).alias("label"),
        pl.lit("train").alias("channel"),
        pl.col("size"),
        (number + 10**18).alias("modified"),
        pl.format('"{}"', number.hash(1)).alias("etag"),
        pl.lit(None, pl.String).alias("version"),
        pl.format("{}{}", number.hash(2), number.hash(3)).alias("content"),
        *(pl.lit(None, pl.String).alias(name) for name in ("group", "dataset_path")),
        pl.lit(None, pl.Int64).alias("row"),
    )
    numbers = pl.LazyFrame({"number": np.arange(objects), "size": sizes})
    numbers.select(columns).sink_parquet(folder / "index.parquet", compression="zstd", row_group_size=_PART)
    return folder / "index.parquet", folder / "sizes"
