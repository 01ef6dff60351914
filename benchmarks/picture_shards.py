"""Shards of pictures, as the shard component makes them, for what is measured of preprocess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars

from millrace.runtime.schemas import PlannedShard, ShardPlan

__all__ = ["write_picture_shards"]


def write_picture_shards(
    folder: Path, places: Sequence[tuple[str, str]], shards: int, contents: Sequence[str | None] | None = None
) -> Path:
    """A Shards artifact.

    Args:
        folder: Where it is made.
        places: URI and class of each picture.
        shards: How many shards of the training channel.
        contents: SHA-256 of each picture, which preprocess compares; None for listed pictures that nobody read.
    """
    (folder / "shards").mkdir(parents=True)
    classes = sorted({name for _, name in places})
    contents = contents or [None] * len(places)
    planned = []
    for number in range(shards):
        mine = places[number::shards]
        file = f"train-{number:05d}-of-{shards:05d}.parquet"
        table = polars.DataFrame(
            {
                "uri": [uri for uri, _ in mine],
                "label": [classes.index(name) for _, name in mine],
                "content": contents[number::shards],
            },
            schema={"uri": polars.String, "label": polars.Int64, "content": polars.String},
        )
        table.write_parquet(folder / "shards" / file)
        planned.append(PlannedShard(file=file, objects=len(mine), bytes=0))
    plan = ShardPlan(classes=tuple(classes), shards={"train": tuple(planned)})
    (folder / "plan.json").write_text(plan.model_dump_json())
    return folder
