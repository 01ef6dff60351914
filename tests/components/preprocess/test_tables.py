"""Records of rows of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.errors import ConfigError, DataError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.records import counts
from millrace.runtime.schemas import CHANNELS, TabularRecords, read_records_schema
from millrace.runtime.tabular import row_features
from millrace.testing import Ran, run_component
from tests.components.chain import as_csv, as_lines, as_parquet, make_shards
from tests.conftest import Bucket

DATA: dict[str, Any] = {"kind": "tabular"}


def table(rows: int, first: int = 0) -> pl.DataFrame:
    numbers = range(first, first + rows)
    return pl.DataFrame(
        {
            "age": [None if n % 8 == 7 else 20 + n for n in numbers],
            "kind": [("red", "blue", None)[n % 3] for n in numbers],
            "size": [n / 7 for n in numbers],
            "label": [("a", "b")[n % 2] for n in numbers],
        }
    )


def files() -> dict[str, bytes]:
    return {
        "train.csv": as_csv(table(25)),
        "train/more.jsonl": as_lines(table(15, 25)),
        "validation.parquet": as_parquet(table(10, 100)),
        "test.csv": as_csv(table(10, 200).with_columns(kind=pl.lit("green"))),
    }


def learn(shards: Path, directory: Path, data: dict[str, Any] = DATA) -> Path:
    parameters = AnalyzeParameters.model_validate({"data": data})
    return run_component(analyze, parameters, directory, shards=shards).outputs["analysis"]


def run(shards: Path, analysis: Path, directory: Path, data: dict[str, Any] = DATA, **changes: Any) -> Ran:
    parameters = PreprocessParameters.model_validate({"data": data, **changes})
    return run_component(preprocess, parameters, directory, shards=shards, analysis=analysis)


def rejects(ran: Ran) -> dict[str, tuple[str, str]]:
    """Reason and detail by file and row."""
    found = pl.read_parquet(ran.outputs["rejects"] / "*.parquet")
    return {uri.rpartition("/")[2]: (reason, detail) for uri, reason, detail in found.iter_rows()}


def records(ran: Ran) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in ran.outputs["records"].iterdir() if path.suffix == ".tfrecord"}


class TestRecords:
    def test_are_the_features_of_their_rows_as_in_serving(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        ran = run(shards, learn(shards, tmp_path / "analyze"), tmp_path / "task")
        folder = ran.outputs["records"]
        schema = read_records_schema(folder)
        assert isinstance(schema, TabularRecords)
        sources = {"train": table(40), "validation": table(10, 100), "test": table(10, 200)}
        for channel in CHANNELS:
            given = sources[channel]
            if channel == "test":
                given = given.with_columns(kind=pl.lit("green"))
            found, labels = load_arrays(folder, channel)
            rows = [{name: row[name] for name in ("age", "kind", "size")} for row in given.iter_rows(named=True)]
            served = row_features(rows, schema)
            expected = np.column_stack([served, (given["label"] == "b").to_numpy()])
            made = np.column_stack([found, labels])
            assert sorted(map(tuple, made.tolist())) == sorted(map(tuple, expected.tolist()))
            assert sum(item.records for item in counts(folder, channel)) == given.height
        assert ran.metrics["shards_made"] == 4
        assert rejects(ran) == {}

    def test_of_a_bucket_are_the_same(self, tmp_path: Path, s3: Bucket) -> None:
        for key, content in files().items():
            s3.put(f"data/{key}", content)
        here = make_shards(tmp_path, files())
        analysis = learn(here, tmp_path / "analyze")
        there = make_shards(tmp_path / "s3", {}, source=s3.uri("data"))
        assert (learn(there, tmp_path / "s3" / "analyze") / "schema.json").read_bytes() == (
            analysis / "schema.json"
        ).read_bytes()
        ran = run(there, analysis, tmp_path / "s3" / "task")
        found, _ = load_arrays(ran.outputs["records"], "train")
        local, _ = load_arrays(run(here, analysis, tmp_path / "task").outputs["records"], "train")
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, local.tolist()))
        assert any(f"{s3.uri('data/train.csv')}#row=".encode() in content for content in records(ran).values())
        assert not list((tmp_path / "s3" / "task").rglob("scratch/*"))

    def test_are_the_same_bytes_again(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        assert records(run(shards, analysis, tmp_path / "1")) == records(run(shards, analysis, tmp_path / "2"))

    def test_come_from_a_dataset_of_an_earlier_task(self, tmp_path: Path) -> None:
        from millrace.components.manifest.spec import ManifestParameters, manifest
        from millrace.components.shard.spec import ShardParameters, shard

        make_shards(tmp_path, files())
        listing = ManifestParameters.model_validate(
            {"formats": ["csv", "jsonl", "parquet"], "labels": {"kind": "column"}, "conflicts": "keep"}
        )
        listed = run_component(manifest, listing, tmp_path / "m", dataset=tmp_path / "source")
        dealt = run_component(shard, ShardParameters(shards=1), tmp_path / "s", manifest=listed.outputs["manifest"])
        shards = dealt.outputs["shards"]
        with pytest.raises(ConfigError, match="analyze needs the same input `dataset` as manifest"):
            learn(shards, tmp_path / "a0")
        parameters = AnalyzeParameters.model_validate({"data": DATA})
        made = run_component(analyze, parameters, tmp_path / "a", shards=shards, dataset=tmp_path / "source")
        ran = run_component(
            preprocess, PreprocessParameters.model_validate({"data": DATA}), tmp_path / "p", shards=shards,
            dataset=tmp_path / "source", analysis=made.outputs["analysis"],
        )  # fmt: skip
        assert len(load_arrays(ran.outputs["records"], "train")[0]) == 40


class TestRejects:
    def test_are_values_that_cannot_be_taken(self, tmp_path: Path) -> None:
        given = files()
        given["test.csv"] = (
            given["test.csv"].replace(b"221,", b"many,").replace(b"222,", b"inf,").replace(b"224,", b"n/a,")
        )
        shards = make_shards(tmp_path, given)
        ran = run(shards, learn(shards, tmp_path / "analyze"), tmp_path / "task", max_error_rate=0.1)
        found = rejects(ran)
        assert {row: reason for row, (reason, _) in found.items()} == dict.fromkeys(
            ("test.csv#row=1", "test.csv#row=2"), "bad_value"
        )
        assert found["test.csv#row=1"][1].startswith("column 'age': 'many' is no number: write it as 1.5")

    def test_are_rows_that_changed_or_went(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        source = tmp_path / "source"
        lines = (source / "train.csv").read_bytes().splitlines(keepends=True)
        lines[3] = b"99,red,0.5,a\n"
        (source / "train.csv").write_bytes(b"".join(lines[:-2]))
        (source / "train" / "more.jsonl").unlink()
        (source / "validation.parquet").write_bytes(b"PAR1")
        (source / "test.csv").write_bytes(as_csv(table(10, 200)).replace(b"kind", b"sort"))
        with pytest.raises(DataError, match=r"there is no column|has no column 'kind'"):
            run(shards, analysis, tmp_path / "columns", max_error_rate=1)
        (source / "test.csv").unlink()
        ran = run(shards, analysis, tmp_path / "task", max_error_rate=1)
        found = {row: reason for row, (reason, _) in rejects(ran).items()}
        assert found == {
            "train.csv#row=2": "changed",
            "train.csv#row=23": "missing",
            "train.csv#row=24": "missing",
            **{f"more.jsonl#row={n}": "missing" for n in range(15)},
            **{f"validation.parquet#row={n}": "changed" for n in range(10)},
            **{f"test.csv#row={n}": "missing" for n in range(10)},
        }
        made = sum(item.records for channel in CHANNELS for item in counts(ran.outputs["records"], channel))
        assert made == 60 - len(found)

    def test_are_rows_of_which_only_columns_changed_that_are_not_compared(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files(), columns=["size"])
        analysis = learn(shards, tmp_path / "analyze")
        first = run(shards, analysis, tmp_path / "first")
        train = tmp_path / "source" / "train.csv"
        lines = train.read_bytes().splitlines(keepends=True)
        lines[3] = lines[3].replace(b"22,", b"99,")
        train.write_bytes(b"".join(lines))
        ran = run(shards, analysis, tmp_path / "task", max_error_rate=1)
        assert {row: reason for row, (reason, _) in rejects(ran).items()} == {"train.csv#row=2": "changed"}
        later = make_shards(tmp_path / "later", {}, source=str(tmp_path / "source"), columns=["size"])
        previous = {name: str(first.outputs[name]) for name in ("records", "rejects")}
        second = run(later, analysis, tmp_path / "second", previous=previous)
        assert (second.metrics["shards_made"], second.metrics["shards_kept"]) == (1, 3)

    def test_over_the_rate_fail_the_task(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        (tmp_path / "source" / "test.csv").unlink()
        with pytest.raises(DataError, match=r"were rejected \(\d+ missing\); max_error_rate=0.01 allows 1"):
            run(shards, analysis, tmp_path / "task")


class TestAnalysis:
    def test_is_needed(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        with pytest.raises(ConfigError, match="rows of tables need the analysis of analyze"):
            run_component(
                preprocess, PreprocessParameters.model_validate({"data": DATA}), tmp_path / "t", shards=shards
            )

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({**DATA, "exclude": ["age"]}, r"preprocess\.data\.exclude is \['age'\], analyze\.data\.exclude was \[\]"),
            ({"kind": "text"}, r"preprocess\.data\.kind is text, the analysis is of kind=tabular"),
        ],
    )
    def test_of_other_options_is_refused(self, tmp_path: Path, data: dict[str, Any], message: str) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        with pytest.raises(ConfigError, match=message):
            run(shards, analysis, tmp_path / "task", data)

    def test_of_other_classes_or_broken_is_refused(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        content = json.loads((analysis / "schema.json").read_text())
        (analysis / "schema.json").write_text(json.dumps({**content, "classes": ["a", "c"]}))
        with pytest.raises(ConfigError, match=r"with the classes \['a', 'c'\], the shards have \['a', 'b'\]"):
            run(shards, analysis, tmp_path / "task")
        (analysis / "schema.json").write_text(json.dumps({**content, "columns": []}))
        with pytest.raises(DataError, match=r"schema\.json: .*columns"):
            run(shards, analysis, tmp_path / "again")
        (analysis / "options.json").unlink()
        with pytest.raises(DataError, match=r"options\.json: No such file"):
            run(shards, analysis, tmp_path / "gone")

    def test_whole_files_are_no_rows(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path, files())
        analysis = learn(shards, tmp_path / "analyze")
        texts = {f"{label}/{n}.txt": f"{n}".encode() for label in "ab" for n in range(6)}
        other = make_shards(tmp_path / "t", texts, labels={"kind": "prefix"}, formats=["text"])
        with pytest.raises(ConfigError, match=r"txt is no row of a table: .* needs rows of tables"):
            run(other, analysis, tmp_path / "task")
