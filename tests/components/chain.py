"""From files to shards, for tests of what comes after."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.shard.spec import ChannelShards, ShardParameters, shard
from millrace.testing import run_component
from tests.files import write_files

__all__ = ["as_csv", "as_lines", "as_parquet", "make_shards"]


def make_shards(folder: Path, files: Mapping[str, bytes], *, shards: int = 2, **listing: Any) -> Path:
    """A Shards artifact of these files below `folder / "source"`; classes are in the column label.

    There are that many shards of train, one of each other channel.
    """
    given = {
        "source": str(write_files(folder / "source", files)),
        "formats": ["csv", "tsv", "parquet", "jsonl"],
        "labels": {"kind": "column", "column": "label"},
        "conflicts": "keep",
        "split": {"minimum": 0},
        **listing,
    }
    listed = run_component(manifest, ManifestParameters.model_validate(given), folder / "manifest")
    dealt = run_component(
        shard,
        ShardParameters(shards=ChannelShards(train=shards)),
        folder / "shard",
        manifest=listed.outputs["manifest"],
    )
    return dealt.outputs["shards"]


def as_csv(frame: pl.DataFrame) -> bytes:
    """With a header."""
    return frame.write_csv().encode()


def as_lines(frame: pl.DataFrame) -> bytes:
    """JSON lines."""
    return frame.write_ndjson().encode()


def as_parquet(frame: pl.DataFrame) -> bytes:
    """With its types."""
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()
