from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.shard.spec import ChannelShards, ShardParameters, shard
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS, ShardPlan, read_json_model
from millrace.testing import Ran, run_component
from tests.components.manifest_data import write_manifest
from tests.files import write_files


def objects(sizes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Objects of these sizes in each channel, one half of each class."""
    for channel, all_sizes in sizes.items():
        for number, size in enumerate(all_sizes):
            label = number * 2 // len(all_sizes)
            name = ("cats", "dogs")[label]
            key = f"{name}/{channel}-{number:05d}"
            yield {"key": key, "class_label": name, "label": label, "channel": channel, "size": size}


def run(folder: Path, sizes: Mapping[str, Sequence[int]], **parameters: Any) -> Ran:
    listed = write_manifest(folder / "manifest", sorted(objects(sizes), key=itemgetter("key")))
    return run_component(shard, ShardParameters(**parameters), folder / "task", manifest=listed)


def plan(ran: Ran) -> ShardPlan:
    return read_json_model(ran.outputs["shards"] / "plan.json", ShardPlan)


def tables(ran: Ran, channel: str = "train") -> list[pl.DataFrame]:
    return [pl.read_parquet(file) for file in sorted((ran.outputs["shards"] / "shards").glob(f"{channel}-*"))]


def keys(ran: Ran, channel: str = "train") -> list[list[str]]:
    return [table["key"].to_list() for table in tables(ran, channel)]


SIZES = {"train": range(100, 200), "validation": range(100, 120), "test": range(100, 130)}


class TestOutputs:
    def test_plan(self, tmp_path: Path) -> None:
        ran = run(tmp_path, SIZES, shards=2)
        found = plan(ran)
        assert found.classes == ("cats", "dogs")
        assert [item.file for item in found.shards["test"]] == [
            "test-00000-of-00002.parquet",
            "test-00001-of-00002.parquet",
        ]
        for channel in CHANNELS:
            told = [(item.objects, item.bytes) for item in found.shards[channel]]
            assert told == [(table.height, table["size"].sum()) for table in tables(ran, channel)]

    def test_s3_manifests_name_the_same_objects(self, tmp_path: Path) -> None:
        ran = run(tmp_path, SIZES, shards=3)
        for file in (ran.outputs["shards"] / "shards").iterdir():
            manifest_file = ran.outputs["shards"] / "manifests" / f"{file.stem}.manifest"
            head, *entries = json.loads(manifest_file.read_text())
            assert [head["prefix"] + entry for entry in entries] == pl.read_parquet(file)["uri"].to_list()
        assert len(list((ran.outputs["shards"] / "manifests").iterdir())) == 9

    def test_metrics_and_metadata(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"train": [30, 10, 20], "validation": [5, 5], "test": [5, 5]})
        assert ran.metrics["objects"] == 7
        assert ran.metrics["imbalance"] == pytest.approx(0)
        assert ran.metadata["shards"] == {"shards": {"train": 2, "validation": 2, "test": 2}}

    def test_the_same_bytes_twice(self, tmp_path: Path) -> None:
        first, second = (run(tmp_path / name, SIZES).outputs["shards"] for name in ("one", "two"))
        files = [file.relative_to(first) for file in sorted(first.rglob("*")) if file.is_file()]
        assert len(files) == 13
        assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)

    def test_after_the_manifest_component(self, tmp_path: Path) -> None:
        files = {f"{'ab'[number % 2]}/{number} é%.bin": b"x" * (number + 1) for number in range(20)}
        source = write_files(tmp_path / "source", files)
        listed = run_component(manifest, ManifestParameters(source=str(source), formats=()), tmp_path / "listed")
        ran = run_component(shard, ShardParameters(shards=1), tmp_path / "task", manifest=listed.outputs["manifest"])
        rows = pl.concat([table for channel in CHANNELS for table in tables(ran, channel)])
        index = pl.read_parquet(listed.outputs["manifest"] / "index.parquet")
        assert rows.sort("key").equals(index)

    def test_a_manifest_that_knows_of_no_rows(self, tmp_path: Path) -> None:
        listed = write_manifest(tmp_path / "manifest", objects(SIZES))
        table = listed / "index.parquet"
        pl.read_parquet(table).drop("row").write_parquet(table)
        ran = run_component(shard, ShardParameters(), tmp_path / "task", manifest=listed)
        assert sum(table.height for channel in CHANNELS for table in tables(ran, channel)) == 150


class TestOrder:
    def test_shuffled_by_the_seed(self, tmp_path: Path) -> None:
        one, again, two = (keys(run(tmp_path / name, SIZES, seed=int(name[0]))) for name in ("1", "1 again", "2"))
        assert one == again
        assert one != two
        assert all(part != sorted(part) for part in one)

    def test_listing(self, tmp_path: Path) -> None:
        assert all(part == sorted(part) for part in keys(run(tmp_path, SIZES, order="listing")))

    def test_classes_are_mixed_although_listed_apart(self, tmp_path: Path) -> None:
        for table in tables(run(tmp_path, {**SIZES, "train": [100] * 400}, shards=4)):
            assert 25 <= table["label"].sum() <= 75


class TestNumbers:
    def test_each_channel_its_own(self, tmp_path: Path) -> None:
        found = plan(run(tmp_path, SIZES, shards=ChannelShards(train=4, test=3)))
        assert {name: len(items) for name, items in found.shards.items()} == {"train": 4, "validation": 1, "test": 3}

    @pytest.mark.parametrize(
        ("shards", "told"),
        [
            (101, r"channel 'train' has 100 objects, too few for 101 shards: set shard\.shards\.train to 100 or less"),
            (21, r"channel 'validation' has 20 objects, too few for 21 shards: set shard\.shards\.validation"),
        ],
    )
    def test_more_shards_than_objects(self, tmp_path: Path, shards: int, told: str) -> None:
        with pytest.raises(DataError, match=told):
            run(tmp_path, SIZES, shards=shards)

    def test_as_many_shards_as_objects(self, tmp_path: Path) -> None:
        assert [len(part) for part in keys(run(tmp_path, SIZES, shards=20), "validation")] == [1] * 20

    def test_empty_channel(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"train": [1, 2, 3], "validation": [4, 5]})
        assert plan(ran).shards["test"] == ()
        assert tables(ran, "test") == []

    @pytest.mark.parametrize("shards", [0, 100_000, {"train": 0}, {"trian": 2}])
    def test_out_of_range(self, shards: Any) -> None:
        with pytest.raises(ValidationError):
            ShardParameters(shards=shards)

    def test_not_a_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is not a manifest"):
            run_component(shard, ShardParameters(), tmp_path / "task", manifest=tmp_path)


class TestBalance:
    @settings(max_examples=30, deadline=None)
    @given(sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=120), data=st.data())
    def test_each_object_once_and_evenly(self, sizes: list[int], data: st.DataObject) -> None:
        shards = data.draw(st.integers(1, len(sizes)))
        with TemporaryDirectory() as folder:
            parts = tables(run(Path(folder), {"train": sizes}, shards=shards))
        assert sorted(size for part in parts for size in part["size"]) == sorted(sizes)
        assert pl.concat(parts)["uri"].n_unique() == len(sizes)
        numbers = [part.height for part in parts]
        assert max(numbers) - min(numbers) <= 1
        loads = [sum(part["size"].to_list()) for part in parts]
        assert max(loads) - min(loads) <= max(sizes)

    @pytest.mark.parametrize("shards", [2, 7, 16])
    def test_skewed_sizes(self, tmp_path: Path, shards: int) -> None:
        sizes = [int(2000 * 1.004**number) for number in range(2000)]
        ran = run(tmp_path, {"train": sizes}, shards=shards)
        assert ran.metrics["imbalance"] < 0.01

    def test_millions_of_alike_rounds_are_dealt_without_a_loop(self, tmp_path: Path) -> None:
        sizes = [1000 + number % 977 for number in range(120_000)]
        ran = run(tmp_path, {"train": sizes}, shards=2)
        assert [item.objects for item in plan(ran).shards["train"]] == [60_000, 60_000]
        assert ran.metrics["imbalance"] < 1e-4
