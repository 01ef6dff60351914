"""Tasks of the data plane that are killed in the middle of their work: nothing is lost and nothing is there twice."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.components.analyze.spec import analyze
from millrace.components.manifest.spec import manifest
from millrace.components.preprocess.spec import preprocess
from millrace.components.shard.spec import shard
from millrace.runtime.records import counts, read_records, record_uri
from millrace.runtime.schemas import CHANNELS, Channel
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.specs import Component
from millrace.testing import run_component
from tests.components.chain import as_csv, as_lines, as_parquet, make_shards
from tests.kills import run_with_kills

ROWS = 300


def table(first: int, rows: int) -> pl.DataFrame:
    numbers = range(first, first + rows)
    return pl.DataFrame(
        {
            "text": [f"word {n} of some {n % 17}" for n in numbers],
            "size": [f"{n / 7}" if n % 50 else "large" for n in numbers],
            "label": [("a", "b", None)[2 if n % 40 == 39 else n % 2] for n in numbers],
        }
    )


def files() -> dict[str, bytes]:
    """Tables of so many rows; of 40 one has no class, of 50 one a word for a number."""
    return {
        "1.csv": as_csv(table(0, 120)),
        "2/3.jsonl": as_lines(table(120, 80)),
        "4.parquet": as_parquet(table(200, 100)),
    }


def asked(folder: Path, component: Component[Any, ..., Any], parameters: dict[str, Any], **inputs: Path) -> Path:
    """A task directory with a request."""
    directory = folder / "task"
    TaskRequest(
        name=component.spec.name,
        component=component.spec.entry,
        parameters=component.parameters.model_validate(parameters).model_dump(mode="json"),
        inputs={port: (GivenArtifact(path=path),) for port, path in inputs.items()},
    ).write(directory)
    return directory


def parquet(made: dict[str, bytes], name: str) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(made[name]))


DATA: dict[str, dict[str, Any]] = {
    "tabular": {"kind": "tabular", "exclude": ["text"], "columns": {"size": {"kind": "numeric"}}},
    "text": {"kind": "text", "vocabulary_size": 100},
}


class TestRows:
    def test_listed(self, tmp_path: Path) -> None:
        make_shards(tmp_path, files())
        rows = {
            "source": str(tmp_path / "source"),
            "formats": ["csv", "jsonl", "parquet"],
            "labels": {"kind": "column"},
        }
        made = run_with_kills(asked(tmp_path, manifest, rows))
        index, rejects = parquet(made, "manifest/index.parquet"), parquet(made, "rejects/rejects.parquet")
        uris = Counter([*index["uri"], *rejects["uri"]])
        assert len(uris) == uris.total() == ROWS
        assert rejects["reason"].to_list() == ["no_label"] * 7

    def test_listed_again(self, tmp_path: Path) -> None:
        make_shards(tmp_path, files())
        (tmp_path / "source" / "5.csv").write_bytes(as_csv(table(ROWS, 15)))
        rows = {
            "source": str(tmp_path / "source"), "formats": ["csv", "tsv", "parquet", "jsonl"], "conflicts": "keep",
            "labels": {"kind": "column"}, "previous": str(tmp_path / "manifest" / "outputs" / "manifest"),
        }  # fmt: skip
        made = run_with_kills(asked(tmp_path, manifest, rows))
        changes = parquet(made, "manifest/changes.parquet")
        assert set(changes["change"]) == {"added"}
        assert len(changes) == len(set(changes["uri"])) == 15

    def test_dealt_out(self, tmp_path: Path) -> None:
        make_shards(tmp_path, files())
        listed = tmp_path / "manifest" / "outputs" / "manifest"
        made = run_with_kills(asked(tmp_path, shard, {"shards": 5}, manifest=listed))
        tables = [name for name in made if name.endswith(".parquet")]
        uris = [uri for name in tables for uri in parquet(made, name)["uri"]]
        assert len(tables) == 15
        assert sorted(uris) == sorted(pl.read_parquet(listed / "index.parquet")["uri"])

    @pytest.mark.parametrize("kind", ["tabular", "text"])
    def test_learnt_from(self, tmp_path: Path, kind: str) -> None:
        shards = make_shards(tmp_path, files())
        made = run_with_kills(asked(tmp_path, analyze, {"data": DATA[kind]}, shards=shards))
        assert {"analysis/schema.json", "metrics/metrics.json"} <= set(made)

    @pytest.mark.parametrize("kind", ["tabular", "text"])
    def test_made_into_records(self, tmp_path: Path, kind: str) -> None:
        shards = make_shards(tmp_path, files(), shards=5)
        learning = analyze.parameters.model_validate({"data": DATA[kind]})
        analysis = run_component(analyze, learning, tmp_path / "analyze", shards=shards).outputs["analysis"]
        parameters = {"data": DATA[kind], "max_error_rate": 0.1}
        made = run_with_kills(asked(tmp_path, preprocess, parameters, shards=shards, analysis=analysis))
        assert len([name for name in made if name.endswith(".tfrecord")]) == 7
        assert in_records(tmp_path / "task" / "outputs") == sorted(pl.read_parquet(shards / "shards")["uri"])


def in_records(outputs: Path) -> list[str]:
    """URIs of all records and all rejects, as often as they are there; counts must say the same."""
    records: list[str] = []
    rejects = pl.read_parquet(outputs / "rejects")["uri"].to_list()
    channels: tuple[Channel, ...] = CHANNELS
    told = [one for channel in channels for one in counts(outputs / "records", channel)]
    for one in told:
        uris = [record_uri(record) for record in read_records(outputs / "records" / one.file)]
        assert len(uris) == one.records == sum(one.by_class.values())
        records += uris
    assert sum(one.rejected for one in told) == len(rejects)
    return sorted([*records, *rejects])
