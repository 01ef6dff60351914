"""Shards that have not changed since an earlier run are taken from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars
import pytest

from millrace.components.preprocess.spec import ImageData, Previous, preprocess
from millrace.errors import DataError
from millrace.runtime.context import Share
from millrace.runtime.schemas import ShardCounts, read_json_model
from millrace.testing import Ran, run_component
from tests.components.preprocess.material import (
    Listed,
    contents,
    make_shards,
    pictures,
    put,
    rejected,
    small,
)
from tests.conftest import Bucket
from tests.pictures import noise, saved


def previous(ran: Ran) -> Previous:
    return Previous(records=str(ran.outputs["records"]), rejects=str(ran.outputs["rejects"]))


def made_from(ran: Ran, name: str) -> str:
    return read_json_model(ran.outputs["records"] / f"{name}.json", ShardCounts).made_from


class TestPrevious:
    @pytest.fixture
    def objects(self, tmp_path: Path) -> list[Listed]:
        return [*pictures(tmp_path / "objects", 9), put(tmp_path / "objects", "broken.png", b"broken")]

    def run(self, folder: Path, parts: dict[str, list[Listed]], **changes: Any) -> Ran:
        return run_component(
            preprocess, small(max_error_rate=0.5, **changes), folder, shards=make_shards(folder / "in", parts)
        )

    def test_gives_the_bytes_that_making_them_gives_and_reads_no_object_of_shards_it_has(
        self, tmp_path: Path, objects: list[Listed]
    ) -> None:
        before = {"train-00000-of-00002": objects[:3], "train-00001-of-00002": objects[8:]}
        first = self.run(tmp_path / "first", before)
        after = {
            "train-00000-of-00003": objects[:3],
            "train-00001-of-00003": objects[8:],
            "train-00002-of-00003": objects[3:8],
        }
        expected = self.run(tmp_path / "expected", after)
        for row in [*objects[:3], *objects[8:]]:
            Path(unquote(row.uri.removeprefix("file://"))).unlink()
        second = self.run(tmp_path / "second", after, previous=previous(first))
        assert contents(*second.outputs.values()) == contents(*expected.outputs.values())
        assert (second.metrics["shards_made"], second.metrics["shards_kept"]) == (1, 2)

    def test_a_shard_is_made_anew_when_anything_it_depends_on_is_other(
        self, tmp_path: Path, objects: list[Listed]
    ) -> None:
        name = "train-00000-of-00001"
        first = self.run(tmp_path / "first", {name: objects[:3]})
        others: dict[str, dict[str, Any]] = {
            "order": {"parts": {name: objects[2::-1]}},
            "label": {"parts": {name: [objects[0]._replace(label=1), *objects[1:3]]}},
            "content": {"parts": {name: [objects[0]._replace(content=None), *objects[1:3]]}},
            "size": {"parts": {name: objects[:3]}, "data": ImageData(height=11, width=12, encoding="png")},
            "quality": {"parts": {name: objects[:3]}, "data": ImageData(height=10, width=12, quality=9)},
        }
        digests = {made_from(first, name)}
        for what, changed in others.items():
            ran = self.run(tmp_path / what, previous=previous(first), **changed)
            assert ran.metrics["shards_kept"] == 0, what
            digests.add(made_from(ran, name))
        assert len(digests) == len(others) + 1

    @pytest.mark.parametrize("known", ["content", "etag", ""])
    def test_what_the_store_tells_counts_where_the_content_is_not_known(
        self, tmp_path: Path, objects: list[Listed], known: str
    ) -> None:
        name = "train-00000-of-00001"
        rows = objects[:2] if known == "content" else [row._replace(content=None) for row in objects[:2]]
        told = {"modified": 1, "size": 2, **({"etag": "x"} if known == "etag" else {})}
        digests = {}
        for column, value in {"": 0, "modified": 5, "etag": "a", "version": "b", "size": 7}.items():
            shards = make_shards(tmp_path / f"in{column}", {name: rows})
            file = shards / "shards" / f"{name}.parquet"
            changed = {**told, **({column: value} if column else {})}
            polars.read_parquet(file).with_columns(**{n: polars.lit(v) for n, v in changed.items()}).write_parquet(file)
            ran = run_component(preprocess, small(), tmp_path / f"task{column}", shards=shards)
            digests[column] = made_from(ran, name)
        same = {column for column, digest in digests.items() if digest == digests[""]}
        every = {"", "modified", "etag", "version", "size"}
        assert same == {"content": every, "etag": {"", "modified", "version"}, "": {""}}[known]

    def test_its_rejects_count(self, tmp_path: Path, objects: list[Listed]) -> None:
        name = "train-00000-of-00001"
        first = self.run(tmp_path / "first", {name: objects})
        strict = small(max_error_rate=0, previous=previous(first))
        with pytest.raises(DataError, match=r"1 of the first 10 objects were rejected \(1 not_an_image\)"):
            run_component(preprocess, strict, tmp_path / "second", shards=make_shards(tmp_path / "in", {name: objects}))

    def test_without_its_rejects_only_shards_without_any_are_taken(self, tmp_path: Path, objects: list[Listed]) -> None:
        parts = {"train-00000-of-00002": objects[:5], "train-00001-of-00002": objects[5:]}
        first = self.run(tmp_path / "first", parts)
        given = Previous(records=str(first.outputs["records"]))
        second = self.run(tmp_path / "second", parts, previous=given)
        assert (second.metrics["shards_made"], second.metrics["shards_kept"]) == (1, 1)
        assert contents(*second.outputs.values()) == contents(*first.outputs.values())

    @pytest.mark.parametrize("damage", ["cut", "gone"])
    def test_damaged_shards_are_made_anew(self, tmp_path: Path, objects: list[Listed], damage: str) -> None:
        name = "train-00000-of-00001"
        expected = self.run(tmp_path / "expected", {name: objects})
        first = self.run(tmp_path / "first", {name: objects})
        file = first.outputs["records"] / f"{name}.tfrecord"
        data = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(data[:-1])
        second = self.run(tmp_path / "second", {name: objects}, previous=previous(first))
        assert second.metrics["shards_kept"] == 0
        assert contents(*second.outputs.values()) == contents(*expected.outputs.values())

    def test_must_be_records(self, tmp_path: Path, objects: list[Listed]) -> None:
        (tmp_path / "empty").mkdir()
        given = Previous(records=str(tmp_path / "empty"))
        with pytest.raises(DataError, match=r"empty' holds no records, it has no schema\.json"):
            self.run(tmp_path / "task", {"train-00000-of-00001": objects}, previous=given)

    def test_workers_take_their_shares_from_it(
        self, tmp_path: Path, objects: list[Listed], caplog: pytest.LogCaptureFixture
    ) -> None:
        parts = {f"train-{index:05d}-of-00003": objects[index:9:3] for index in range(3)}
        first = self.run(tmp_path / "first", parts)
        merged: dict[str, bytes] = {}
        for index in range(2):
            shards = make_shards(tmp_path / f"in{index}", parts)
            with caplog.at_level(logging.INFO):
                ran = run_component(
                    preprocess,
                    small(previous=previous(first)),
                    tmp_path / f"share{index}",
                    share=Share(index=index, count=2),
                    shards=shards,
                )
            merged |= contents(*ran.outputs.values())
        assert merged == contents(*first.outputs.values())
        assert "0 shards made, 2 kept from before" in caplog.text
        assert "0 shards made, 1 kept from before" in caplog.text


def test_from_a_bucket_only_what_is_wanted_is_copied(tmp_path: Path, s3: Bucket) -> None:
    rows = [put(tmp_path / "objects", f"{index}.png", saved(noise(index), "PNG")) for index in range(4)]
    parts = {f"train-{index:05d}-of-00002": rows[index::2] for index in range(2)}
    first = run_component(preprocess, small(), tmp_path / "first", shards=make_shards(tmp_path / "in", parts))
    given = Previous(records=s3.upload(first.outputs["records"], "records"))
    grown = {**parts, "train-00001-of-00002": rows[:3]}
    second = run_component(
        preprocess, small(previous=given), tmp_path / "second", shards=make_shards(tmp_path / "grown", grown)
    )
    assert (second.metrics["shards_made"], second.metrics["shards_kept"]) == (1, 1)
    name = "train-00000-of-00002.tfrecord"
    assert (second.outputs["records"] / name).read_bytes() == (first.outputs["records"] / name).read_bytes()


class TestSigns:
    """What tells that an object has changed when its digest is not known."""

    name = "train-00000-of-00001"

    def run(self, folder: Path, objects: list[Listed], before: Ran | None = None, **columns: int | str | None) -> Ran:
        shards = make_shards(folder / "in", {self.name: objects})
        file = shards / "shards" / f"{self.name}.parquet"
        values = {name: polars.lit(value) for name, value in columns.items()}
        polars.read_parquet(file).with_columns(**values).write_parquet(file)
        given = small(max_error_rate=0.5, previous=before and previous(before))
        return run_component(preprocess, given, folder, shards=shards)

    @pytest.fixture
    def objects(self, tmp_path: Path) -> list[Listed]:
        return [row._replace(content=None) for row in pictures(tmp_path / "objects", 3)]

    @pytest.mark.parametrize(("etag", "kept"), [(None, 0), ("abc", 1)])
    def test_the_time_counts_without_digest_and_etag(
        self, tmp_path: Path, objects: list[Listed], etag: str | None, kept: int
    ) -> None:
        first = self.run(tmp_path / "first", objects, etag=etag, modified=5)
        same = self.run(tmp_path / "same", objects, first, etag=etag, modified=5)
        later = self.run(tmp_path / "later", objects, first, etag=etag, modified=6)
        assert (same.metrics["shards_kept"], later.metrics["shards_kept"]) == (1, kept)

    @pytest.mark.parametrize("modified", [None, 0])
    def test_objects_that_could_change_without_a_sign_are_read_each_time(
        self, tmp_path: Path, objects: list[Listed], modified: int | None
    ) -> None:
        first = self.run(tmp_path / "first", objects, size=7, modified=modified)
        assert made_from(first, self.name) == ""
        assert self.run(tmp_path / "second", objects, first, size=7, modified=modified).metrics["shards_kept"] == 0

    def test_the_code_counts(self, tmp_path: Path, objects: list[Listed], monkeypatch: pytest.MonkeyPatch) -> None:
        first = self.run(tmp_path / "first", objects, etag="abc")
        monkeypatch.setattr("millrace.components.preprocess.shards.code_digest", lambda *_: "other code")
        assert self.run(tmp_path / "second", objects, first, etag="abc").metrics["shards_kept"] == 0


class TestPassing:
    """Objects that were not there, or others, get another chance."""

    name = "train-00000-of-00001"

    @pytest.fixture
    def objects(self, tmp_path: Path) -> list[Listed]:
        return pictures(tmp_path / "objects", 4)

    @pytest.fixture
    def shards(self, tmp_path: Path, objects: list[Listed]) -> Path:
        return make_shards(tmp_path / "in", {self.name: objects})

    @pytest.fixture(params=["missing", "changed"])
    def spoilt(self, request: pytest.FixtureRequest, objects: list[Listed]) -> tuple[str, Path, bytes]:
        file = Path(unquote(objects[1].uri.removeprefix("file://")))
        whole = file.read_bytes()
        file.unlink() if request.param == "missing" else file.write_bytes(saved(noise(99), "PNG"))
        return request.param, file, whole

    def test_in_a_later_run(self, tmp_path: Path, shards: Path, spoilt: tuple[str, Path, bytes]) -> None:
        reason, file, whole = spoilt
        first = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "first", shards=shards)
        assert list(rejected(first).values()) == [reason]
        file.write_bytes(whole)
        given = small(max_error_rate=0.5, previous=previous(first))
        second = run_component(preprocess, given, tmp_path / "second", shards=shards)
        assert rejected(second) == {}
        assert second.metrics["shards_kept"] == 0
        given = small(previous=previous(second))
        third = run_component(preprocess, given, tmp_path / "third", shards=shards)
        assert third.metrics["shards_kept"] == 1

    def test_in_a_later_attempt(self, tmp_path: Path, shards: Path, spoilt: tuple[str, Path, bytes]) -> None:
        _, file, whole = spoilt
        with pytest.raises(DataError, match="max_error_rate"):
            run_component(preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards)
        tried = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "task", shards=shards)
        assert len(rejected(tried)) == 1
        file.write_bytes(whole)
        again = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "task", shards=shards)
        assert rejected(again) == {}
        assert again.metrics["shards_kept"] == 0
        last = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "task", shards=shards)
        assert last.metrics["shards_kept"] == 1
