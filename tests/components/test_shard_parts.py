"""How objects are dealt, how large tables are cut, and what growth does to shards."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from millrace.components.shard.deal import cut, deal
from millrace.components.shard.seats import read_listed, take_seats
from millrace.components.shard.spec import ShardParameters, shard
from millrace.components.shard.writing import write_shards
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.schemas import ShardPlan, read_json_model
from millrace.testing import run_component
from tests.components.manifest_data import PREFIX, write_manifest
from tests.conftest import Bucket


def deal_out(manifest: Path, task: Path, **parameters: Any) -> tuple[Path, dict[str, float]]:
    ran = run_component(shard, ShardParameters(**parameters), task, manifest=manifest)
    return ran.outputs["shards"], ran.metrics


def tables(shards: Path) -> dict[str, pl.DataFrame]:
    """The shards' tables by name, in the order of the plan."""
    plan = read_json_model(shards / "plan.json", ShardPlan)
    return {
        item.file: pl.read_parquet(shards / "shards" / item.file) for items in plan.shards.values() for item in items
    }


def photographs(numbers: Iterable[int], **more: Any) -> list[dict[str, Any]]:
    return [{"key": f"{number:04d}.jpg", "size": 50 + number * 37 % 101, **more} for number in numbers]


def table_rows(*files: tuple[str, int], **more: Any) -> list[dict[str, Any]]:
    return [
        {"key": f"{name}#row={row}", "size": 10 + row % 3, "row": row, **more}
        for name, rows in files
        for row in range(rows)
    ]


HEAVY: dict[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "log-normal": lambda random: random.lognormal(9, 1.5, 60_000),
    "very skewed": lambda random: random.lognormal(9, 2, 60_000),
    "two kinds": lambda random: np.where(random.random(60_000) < 0.002, 300_000, 1000 + 1000 * random.random(60_000)),
    "equal": lambda random: np.full(60_000, 4096),
}


class TestDeal:
    @pytest.mark.parametrize("name", HEAVY)
    def test_within_one_percent_where_the_largest_object_allows_it(self, name: str) -> None:
        sizes = HEAVY[name](np.random.default_rng(3)).astype(np.int64)
        owners = deal(sizes, 32)
        loads = np.bincount(owners, weights=sizes)
        assert np.ptp(np.bincount(owners)) == 0
        assert loads.max() <= 1.01 * max(sizes.max(), sizes.sum() / 32)

    @settings(max_examples=100, deadline=None)
    @given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=200), data=st.data())
    def test_numbers_and_bytes(self, sizes: list[int], data: st.DataObject) -> None:
        shards = data.draw(st.integers(1, len(sizes)))
        given_sizes = np.asarray(sizes, dtype=np.int64)
        owners = deal(given_sizes, shards)
        numbers = np.bincount(owners, minlength=shards)
        loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == one) for one in range(shards)]
        assert len(numbers) == shards
        assert np.ptp(numbers) <= 1
        assert max(loads) - min(loads) <= max(sizes)
        assert np.array_equal(owners, deal(given_sizes, shards))


class TestCut:
    @settings(max_examples=200, deadline=None)
    @given(sizes=st.lists(st.integers(0, 10**12), min_size=1, max_size=200), data=st.data())
    def test_blocks_of_nearly_equal_bytes(self, sizes: list[int], data: st.DataObject) -> None:
        shards = data.draw(st.integers(1, len(sizes)))
        owners = cut(np.asarray(sizes, dtype=np.int64), shards)
        assert np.array_equal(np.unique(owners), np.arange(shards))
        assert (np.diff(owners) >= 0).all()
        loads = np.bincount(owners, weights=sizes)
        if min(sizes) * len(sizes) >= shards * max(sizes):  # no shard had to take an object for having none
            assert loads.max() <= sum(sizes) / shards + max(sizes)


class TestWriting:
    @pytest.mark.parametrize("order", ["shuffled", "listing"])
    @pytest.mark.parametrize("at_a_time", [1, 10, 64])
    def test_in_parts_as_in_one(self, tmp_path: Path, order: str, at_a_time: int) -> None:
        rows = photographs(range(100)) + photographs(range(100, 130), channel="test")
        manifest = write_manifest(tmp_path / "manifest", rows)
        parameters = ShardParameters.model_validate({"shards": 7, "order": order})
        seats = take_seats(read_listed(manifest / "index.parquet", hashes=False), parameters, {})
        written = []
        for name, objects in (("whole", 1000), ("parts", at_a_time)):
            folder = tmp_path / name
            (folder / "scratch").mkdir(parents=True)
            context = Context(scratch=folder / "scratch", checkpoints=folder, log=logging.getLogger("millrace"))
            plan = write_shards(manifest / "index.parquet", folder, seats, context, at_a_time=objects)
            assert not list((folder / "scratch").iterdir())
            files = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
            written.append((plan, files))
        assert len(written[0][1]) == 28
        assert written[0] == written[1]


class TestRows:
    FILES = (("a.csv", 40), ("b.csv", 25), ("sub/c #row=1.csv", 35))

    @pytest.mark.parametrize("order", ["shuffled", "listing"])
    def test_each_row_once_and_each_file_once_in_a_manifest(self, tmp_path: Path, order: str) -> None:
        manifest = write_manifest(
            tmp_path / "manifest", table_rows(*self.FILES), label_column="kind", group_column="who"
        )
        shards, _ = deal_out(manifest, tmp_path / "task", shards=4, order=order)
        plan = read_json_model(shards / "plan.json", ShardPlan)
        assert (plan.label_column, plan.group_column) == ("kind", "who")
        found = tables(shards)
        assert sorted(uri for table in found.values() for uri in table["uri"]) == sorted(
            f"{PREFIX}{row['key']}" for row in table_rows(*self.FILES)
        )
        for name, table in found.items():
            head, *named = json.loads((shards / "manifests" / name).with_suffix(".manifest").read_text())
            assert head == {"prefix": PREFIX}
            expected = [key.rpartition("#row=")[0] for key in table["key"]]
            assert named == list(dict.fromkeys(expected))
            if order == "listing":
                order_of = {key: number for number, (key, _) in enumerate(self.FILES)}
                places = [(order_of[file], row) for file, row in zip(expected, table["row"], strict=True)]
                assert places == sorted(places)
                assert len({file for file, _ in places}) <= 2
                assert abs(sum(table["size"].to_list()) - 1100 / 4) <= 12
            else:
                assert len(named) == 3
                assert table["row"].to_list() != sorted(table["row"])


class TestGrowth:
    def grown(
        self, tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], **parameters: Any
    ) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame], dict[str, float]]:
        first, _ = deal_out(write_manifest(tmp_path / "m1", before), tmp_path / "t1", **parameters)
        manifest = write_manifest(tmp_path / "m2", after)
        again, metrics = deal_out(manifest, tmp_path / "t2", previous=str(first), **parameters)
        old, new = tables(first), tables(again)
        names = [f"{PREFIX}{row['key']}" for row in after]
        assert sorted(uri for table in new.values() for uri in table["uri"]) == sorted(names)
        return old, new, metrics

    def test_the_same_objects_make_the_same_shards(self, tmp_path: Path) -> None:
        old, new, metrics = self.grown(tmp_path, photographs(range(60)), photographs(range(60)), shards=3)
        assert all(new[name].equals(table) for name, table in old.items())
        assert {name: metrics[name] for name in ("known", "added", "gone")} == {"known": 60, "added": 0, "gone": 0}

    def test_shards_of_another_source_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.grown(tmp_path / "same", photographs(range(60)), photographs(range(50, 90)), shards=3)
        assert "another source" not in caplog.text
        *_, metrics = self.grown(tmp_path / "other", photographs(range(60)), photographs(range(60, 90)), shards=3)
        assert (metrics["known"], metrics["gone"]) == (0, 60)
        assert "has none of these objects: is it of another source?" in caplog.text

    def test_other_values_than_those_of_before_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        manifest = write_manifest(tmp_path / "m", photographs(range(60)))
        first, _ = deal_out(manifest, tmp_path / "t1", shards=3, seed=1)
        second, _ = deal_out(manifest, tmp_path / "t2", shards=3, seed=1, previous=str(first))
        assert "shard.previous" not in caplog.text
        third, _ = deal_out(manifest, tmp_path / "t3", shards=4, order="listing", previous=str(second))
        told = (
            "shard.shards=4 (it was 3), shard.order=listing (it was shuffled), shard.seed=0 (it was 1): not for the 60"
        )
        assert told in caplog.text
        caplog.clear()
        each = {"train": 3, "validation": 3, "test": 9}
        deal_out(manifest, tmp_path / "t4", shards=each, seed=1, previous=str(third))  # the first dealing counts
        assert "shard.shards.test=9 (it was 3): not for the 60 objects" in caplog.text

    def test_new_objects_get_shards_of_their_own(self, tmp_path: Path) -> None:
        old, new, metrics = self.grown(tmp_path, photographs(range(60)), photographs(range(100)), shards=3)
        assert list(new) == [f"train-{number:05d}-of-00005.parquet" for number in range(5)]
        assert all(one.equals(other) for one, other in zip(old.values(), new.values(), strict=False))
        assert [table.height for table in new.values()] == [20, 20, 20, 20, 20]
        assert (metrics["known"], metrics["added"], metrics["gone"]) == (60, 40, 0)

    def test_changed_and_deleted_objects_change_their_shard_alone(self, tmp_path: Path) -> None:
        before = photographs(range(60))
        first, _ = deal_out(write_manifest(tmp_path / "m", before), tmp_path / "t", shards=3)
        old = list(tables(first).values())
        gone, changed = old[0]["key"][4], old[1]["key"][7]
        after = [row | ({"etag": "other"} if row["key"] == changed else {}) for row in before if row["key"] != gone]
        _, new, metrics = self.grown(tmp_path, before, after, shards=3)
        now = list(new.values())
        assert now[0].equals(old[0].filter(pl.col("key") != gone))
        assert now[1]["key"].to_list() == old[1]["key"].to_list()
        assert now[1].filter(pl.col("etag") == "other")["key"].to_list() == [changed]
        assert now[2].equals(old[2])
        assert metrics["gone"] == 1

    def test_shards_of_which_nothing_is_left_are_gone(self, tmp_path: Path) -> None:
        before = photographs(range(60))
        first, _ = deal_out(write_manifest(tmp_path / "m", before), tmp_path / "t", shards=3)
        old = list(tables(first).values())
        after = [row for row in before if row["key"] not in set(old[1]["key"])]
        _, new, _ = self.grown(tmp_path, before, after, shards=3)
        assert list(new) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
        assert [table["key"].to_list() for table in new.values()] == [old[0]["key"].to_list(), old[2]["key"].to_list()]

    def test_a_channel_of_its_own(self, tmp_path: Path) -> None:
        """What moved to another channel is new there, and a channel without earlier shards is dealt as usual."""
        before = photographs(range(40)) + photographs(range(40, 60), channel="test")
        moved = [row | ({"channel": "train"} if row["key"] == "0050.jpg" else {}) for row in before]
        after = moved + photographs(range(60, 80), channel="validation")
        _, new, metrics = self.grown(tmp_path, before, after, shards=2)
        assert {name: table.height for name, table in new.items() if "train" in name} == {
            "train-00000-of-00003.parquet": 20,
            "train-00001-of-00003.parquet": 20,
            "train-00002-of-00003.parquet": 1,
        }
        assert sum("validation" in name for name in new) == 2
        assert (metrics["known"], metrics["added"], metrics["gone"]) == (59, 21, 1)

    def test_rows_of_tables(self, tmp_path: Path) -> None:
        before, after = table_rows(("a.csv", 40)), table_rows(("a.csv", 44), ("b.csv", 40))
        old, new, _ = self.grown(tmp_path, before, after, shards=2, order="listing")
        assert len(new) == 4
        assert all(one.equals(other) for one, other in zip(old.values(), new.values(), strict=False))

    def test_in_a_bucket(self, tmp_path: Path, s3: Bucket) -> None:
        manifest = write_manifest(tmp_path / "m", photographs(range(30)))
        first, _ = deal_out(manifest, tmp_path / "t1", shards=3)
        again, _ = deal_out(manifest, tmp_path / "t2", shards=9, previous=s3.upload(first, "earlier/shards"))
        assert {name: table.to_dicts() for name, table in tables(again).items()} == {
            name: table.to_dicts() for name, table in tables(first).items()
        }

    @settings(max_examples=20, deadline=None)
    @given(
        before=st.sets(st.integers(0, 80), min_size=3),
        after=st.sets(st.integers(0, 80), min_size=3),
        seed=st.integers(0, 9),
    )
    def test_however_it_grows(self, before: set[int], after: set[int], seed: int) -> None:
        with TemporaryDirectory() as folder:
            old, new, metrics = self.grown(
                Path(folder), photographs(sorted(before)), photographs(sorted(after)), shards=3, seed=seed
            )
        kept = [[uri for uri in table["uri"] if int(uri[-8:-4]) in after] for table in old.values()]
        kept = [uris for uris in kept if uris]
        now = [table["uri"].to_list() for table in new.values()]
        assert now[: len(kept)] == kept
        assert metrics["added"] == len(after - before)
        assert (len(now) > len(kept)) == bool(after - before)

    def test_what_is_no_earlier_shards(self, tmp_path: Path) -> None:
        manifest = write_manifest(tmp_path / "m", photographs(range(30)))
        with pytest.raises(DataError, match=r"plan\.json"):
            deal_out(manifest, tmp_path / "task", previous=str(manifest))
        first, _ = deal_out(manifest, tmp_path / "t1")
        (first / "shards" / "train-00000-of-00002.parquet").write_bytes(b"")
        with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is not a shard"):
            deal_out(manifest, tmp_path / "t2", previous=str(first))
