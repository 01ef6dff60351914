from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.components.manifest.spec import ColumnLabels, ManifestParameters, RegexLabels, Split, manifest
from millrace.errors import DataError
from millrace.testing import Ran, run_component
from tests.components.manifest_data import column, index, labelled, picture, pictures, reasons, rejects, table
from tests.conftest import Bucket
from tests.faults import faulty_proxy
from tests.files import write_files


@pytest.fixture
def gets(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keys of the objects that were read from the bucket."""
    read: list[str] = []

    def note(number: int, path: str) -> None:
        if "list-type=2" not in path:
            read.append(unquote(path.partition("?")[0]).removeprefix(f"/{s3.name}/"))

    with faulty_proxy(s3.endpoint, note) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield read


def changes(ran: Ran) -> dict[str, str]:
    found = pl.read_parquet(ran.outputs["manifest"] / "changes.parquet")
    return {uri.rpartition("/")[2]: change for uri, change in found.iter_rows()}


def run(source: str | Path, task: Path, previous: Ran | Path | None = None, **parameters: Any) -> Ran:
    given = {"source": str(source), **parameters}
    if previous is not None:
        given["previous"] = str(previous.outputs["manifest"] if isinstance(previous, Ran) else previous)
    return run_component(manifest, ManifestParameters.model_validate(given), task)


def put(s3: Bucket, files: Mapping[str, bytes]) -> str:
    for key, data in files.items():
        s3.put(f"p/{key}", data)
    return s3.uri("p")


class TestPictures:
    def test_only_what_is_new_or_changed_is_read(self, tmp_path: Path, s3: Bucket, gets: list[str]) -> None:
        junk = {"cats/broken.png": b"no picture", "cats/same.png": picture(0), "dogs/both.png": picture(1)}
        source = put(s3, {**pictures("cats", "dogs", each=20), **junk})
        first = run(source, tmp_path / "1", duplicates="drop")
        assert reasons(first) == {
            "broken.png": "wrong_type", "same.png": "duplicate",
            "1.png": "duplicate_with_other_label", "both.png": "duplicate_with_other_label",
        }  # fmt: skip
        assert len(gets) == 43
        gets.clear()
        put(s3, {"cats/new.png": picture(1001), "cats/3.png": picture(1002), "dogs/new": b"no picture"})
        s3.client.delete_object(Bucket=s3.name, Key="p/dogs/7.png")
        second = run(source, tmp_path / "2", first, duplicates="drop")
        assert sorted(gets) == ["p/cats/3.png", "p/cats/new.png", "p/dogs/new"]
        assert changes(second) == {"new.png": "added", "3.png": "changed", "7.png": "deleted"}
        told = {name: second.metrics[name] for name in ("added", "changed", "deleted", "unchanged")}
        assert told == {"added": 1, "changed": 1, "deleted": 1, "unchanged": 37}
        before, after = column(first, "channel"), column(second, "channel")
        assert {key: after[key] for key in before if key != "dogs/7.png"} == {
            key: channel for key, channel in before.items() if key != "dogs/7.png"
        }
        fresh = run(source, tmp_path / "3", duplicates="drop")
        assert index(fresh).drop("channel").equals(index(second).drop("channel"))
        assert sorted(rejects(fresh).rows()) == sorted(rejects(second).rows())

    def test_a_manifest_of_a_manifest_of_a_manifest(self, tmp_path: Path, s3: Bucket, gets: list[str]) -> None:
        source = put(s3, {**pictures("cats", "dogs"), "cats/broken.png": b"no picture"})
        ran = run(source, tmp_path / "0")
        for number in range(1, 3):
            gets.clear()
            again = run(source, tmp_path / str(number), ran)
            assert gets == []
            for port in ("manifest", "rejects"):
                for file in ran.outputs[port].iterdir():
                    assert (again.outputs[port] / file.name).read_bytes() == file.read_bytes()
            ran = again

    @pytest.mark.parametrize("minimum", [1, 3])
    def test_channels_are_kept_when_it_grows_tenfold(self, tmp_path: Path, minimum: int) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs", each=3 * minimum))
        first = run(source, tmp_path / "1", split=Split(minimum=minimum))
        assert first.metrics["repaired"] > 0
        write_files(
            source,
            {f"x/{key}": picture(5000 + at) for at, key in enumerate(pictures("cats", "dogs", each=30 * minimum))},
        )
        grown = run(source, tmp_path / "2", first, split=Split(minimum=minimum))
        before, after = column(first, "channel"), column(grown, "channel")
        assert {key: after[key] for key in before} == before
        assert grown.metrics["repaired"] == 0
        assert grown.metrics["unchanged"] == len(before)
        assert run(source, tmp_path / "3").metrics["objects"] == 66 * minimum

    def test_new_copies_go_where_the_first_one_is(self, tmp_path: Path) -> None:
        files = pictures("cats", "dogs", each=3)
        source = write_files(tmp_path / "source", files)
        first = run(source, tmp_path / "1")
        write_files(source, {f"copies/{key}": data for key, data in files.items()})
        second = column(run(source, tmp_path / "2", first), "channel")
        assert all(second[f"copies/{key}"] == channel for key, channel in column(first, "channel").items())

    def test_groups_stay_where_they_were(self, tmp_path: Path) -> None:
        def shots(number: int) -> dict[str, bytes]:
            names = [f"{label}/p{person}-{number}.png" for label in ("cats", "dogs") for person in range(12)]
            return {name: picture(100 * number + at) for at, name in enumerate(names)}

        split = Split(group=r"/(?P<group>p\d+)-", minimum=3)
        source = write_files(tmp_path / "source", shots(0))
        first = run(source, tmp_path / "1", split=split)
        assert first.metrics["repaired"] > 0
        for number in range(1, 6):
            write_files(source, shots(number))
        second = run(source, tmp_path / "2", first, split=split)
        rows = index(second)
        assert rows.group_by("group").agg(pl.col("channel").n_unique())["channel"].max() == 1
        before, after = column(first, "channel"), column(second, "channel")
        assert {key: after[key] for key in before} == before

    def test_groups_that_were_apart_are_refused(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs", each=20))
        first = run(source, tmp_path / "1")
        with pytest.raises(DataError, match=r"groups have objects that manifest\.previous has in two channels"):
            run(source, tmp_path / "2", first, split=Split(group=r"^(?P<group>.)"))

    def test_a_test_object_that_moved_into_the_train_folder(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "test/cats", "test/dogs", each=9)
        source = write_files(tmp_path / "source", files)
        first = run(source, tmp_path / "1")
        write_files(source, {"train/cats/leak.png": files["test/cats/0.png"]})
        second = run(source, tmp_path / "2", first)
        assert reasons(second) == {"leak.png": "duplicate_across_channels"}

    def test_files_that_were_touched(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs"))
        first = run(source, tmp_path / "1")
        (source / "cats/0.png").write_bytes(picture(0))
        (source / "cats/1.png").write_bytes(picture(99))
        assert changes(run(source, tmp_path / "2", first)) == {"1.png": "changed"}

    def test_other_formats_need_all_read_again(self, tmp_path: Path, s3: Bucket, gets: list[str]) -> None:
        source = put(s3, {**pictures("cats", "dogs"), "cats/x.png": b"text"})
        first = run(source, tmp_path / "1")
        gets.clear()
        second = run(source, tmp_path / "2", first, formats=())
        assert len(gets) == 11
        assert changes(second) == {"x.png": "added"}

    def test_nothing_is_read_when_contents_are_listed(self, tmp_path: Path, s3: Bucket, gets: list[str]) -> None:
        source = put(s3, {**pictures("cats", "dogs", each=20), "cats/twin.png": picture(0)})
        first = run(source, tmp_path / "1", contents="listed")
        assert index(first)["content"].null_count() == 41
        assert first.metrics["duplicates"] == 1
        put(s3, {"cats/new.png": picture(1001), "cats/3.png": picture(1002)})
        second = run(source, tmp_path / "2", first, contents="listed")
        assert gets == []
        assert changes(second) == {"new.png": "added", "3.png": "changed"}
        before, after = column(first, "channel"), column(second, "channel")
        assert {key: after[key] for key in before} == before

    def test_files_without_etag_are_told_by_their_time_when_contents_are_listed(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs"))
        first = run(source, tmp_path / "1", contents="listed")
        before = (source / "cats/0.png").stat()
        (source / "cats/0.png").write_bytes(bytes(before.st_size))
        os.utime(source / "cats/0.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        second = run(source, tmp_path / "2", first, contents="listed")
        assert changes(second) == {"0.png": "changed"}
        assert second.metrics["unchanged"] == 9
        assert column(second, "channel") == column(first, "channel")

    def test_another_source_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        first = run(write_files(tmp_path / "one", pictures("cats", "dogs")), tmp_path / "1")
        run(tmp_path / "one", tmp_path / "2", first)
        assert "the same keys" not in caplog.text
        second = run(write_files(tmp_path / "other", pictures("cats", "dogs")), tmp_path / "3", first)
        assert f"is of {(tmp_path / 'one').as_uri()}/, this is {(tmp_path / 'other').as_uri()}/" in caplog.text
        assert column(second, "channel") == column(first, "channel")

    def test_what_is_no_manifest(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs"))
        first = run(source, tmp_path / "1")
        (first.outputs["manifest"] / "index.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"manifest\.previous=.* is not a manifest"):
            run(source, tmp_path / "2", first)
        with pytest.raises(DataError, match="there is no folder"):
            run(source, tmp_path / "3", tmp_path / "none")


class TestRows:
    def test_unchanged_tables_are_not_read(self, tmp_path: Path, s3: Bucket, gets: list[str]) -> None:
        given: dict[str, Any] = {"formats": ("csv",), "labels": ColumnLabels()}
        aside = ",a\ntext x,\ntext 3,a\n"
        source = put(s3, {"a.csv": (table(40) + aside).encode(), "b.csv": table(40, start=100).encode()})
        first = run(source, tmp_path / "1", **given)
        assert sorted(rejects(first)["reason"]) == ["duplicate_with_other_label"] * 2 + ["empty", "no_label"]
        gets.clear()
        put(s3, {"b.csv": (table(30, start=100) + table(300, start=200).partition("\n")[2]).encode()})
        put(s3, {"c.csv": table(20, start=600).encode()})
        second = run(source, tmp_path / "2", first, **given)
        assert set(gets) == {"p/b.csv", "p/c.csv"}
        told = {name: second.metrics[name] for name in ("added", "changed", "deleted", "unchanged")}
        assert told == {"added": 290 + 20, "changed": 10, "deleted": 0, "unchanged": 39 + 30}
        before, after = column(first, "channel"), column(second, "channel")
        assert {key: after[key] for key in before} == before
        fresh = run(source, tmp_path / "3", **given)
        assert index(fresh).drop("channel").equals(index(second).drop("channel"))
        assert sorted(rejects(fresh).rows()) == sorted(rejects(second).rows())

    def test_rows_that_moved_keep_their_channels(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"formats": ("csv",), "labels": ColumnLabels()}
        source = write_files(tmp_path / "source", {"a.csv": table(12).encode()})
        first = run(source, tmp_path / "1", **given)
        lines = table(12).splitlines()
        (source / "a.csv").write_text("\n".join((lines[0], "new 1,a", "new 2,b", *lines[1:], "")))
        second = run(source, tmp_path / "2", first, **given)
        before = dict(index(first).select("content", "channel").iter_rows())
        after = dict(index(second).select("content", "channel").iter_rows())
        assert {content: after[content] for content in before} == before

    def test_other_columns_need_all_read_again(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"formats": ("csv",), "labels": ColumnLabels()}
        rows = "\n".join(f"{n},{n + 100},{'ab'[n % 2]}" for n in range(40))
        source = write_files(tmp_path / "source", {"a.csv": f"x,y,label\n{rows}\n".encode()})
        first = run(source, tmp_path / "1", **given)
        second = run(source, tmp_path / "2", first, columns=("x",), **given)
        assert index(second)["content"].is_in(index(first)["content"].implode()).sum() == 0
        assert column(second, "channel") == column(first, "channel")

    def test_other_columns_than_those_that_are_compared_change_rows(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"formats": ("csv",), "labels": ColumnLabels(), "columns": ("id",)}
        rows = [f"{n},{n + 100},{'ab'[n % 2]}" for n in range(40)]
        source = write_files(tmp_path / "source", {"a.csv": "\n".join(("id,v,label", *rows, "")).encode()})
        first = run(source, tmp_path / "1", **given)
        rows[7] = "7,9999,b"
        (source / "a.csv").write_text("\n".join(("id,v,label", *rows, "")))
        second = run(source, tmp_path / "2", first, **given)
        assert changes(second) == {"a.csv#row=7": "changed"}
        assert index(second)["content"].equals(index(first)["content"])
        assert (index(second)["row_digest"] != index(first)["row_digest"]).arg_true().to_list() == [7]
        third = run(source, tmp_path / "3", second, **given)
        assert third.metrics["unchanged"] == 40
        assert index(third).equals(index(second))
        assert index(run(source, tmp_path / "4", **{**given, "columns": None}))["row_digest"].null_count() == 40

    def test_groups_and_classes_of_tables_are_those_of_now(self, tmp_path: Path) -> None:
        names = [f"{label}/p{person}_{label}.csv" for person in range(12) for label in ("cats", "dogs")]
        files = {name: table(9, start=100 * at).encode() for at, name in enumerate(names)}
        source = write_files(tmp_path / "source", files)
        alone: dict[str, Any] = {"formats": ("csv",), "split": Split(train=1, validation=0, test=0)}
        grouped = {**alone, "split": Split(train=1, validation=0, test=0, group=r"(?P<group>p\d+)_")}
        first = run(source, tmp_path / "1", **alone)
        second = index(run(source, tmp_path / "2", first, **grouped))
        assert dict(second.group_by("group").len().iter_rows()) == {f"p{person}": 18 for person in range(12)}
        people = RegexLabels(pattern=r"p\d*(?P<label>\d)_")
        third = run(source, tmp_path / "3", first, labels=people, **alone)
        fresh = run(source, tmp_path / "4", labels=people, **alone)
        assert index(third).equals(index(fresh))
        assert set(index(third)["class_label"]) == set("0123456789")
        divided = run(source, tmp_path / "5", formats=("csv",))
        with pytest.raises(DataError, match=r"groups have objects that manifest\.previous has in two channels"):
            run(source, tmp_path / "6", divided, formats=("csv",), split=Split(group=r"(?P<group>p\d+)_"))

    @pytest.mark.parametrize("tables", [1, 3])
    def test_many_rows_come_back_in_their_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: int
    ) -> None:
        for module in ("earlier", "parts", "rejected", "table_rows"):
            monkeypatch.setattr(f"millrace.components.manifest.{module}.ROWS", 10)
        given: dict[str, Any] = {"formats": ("csv",), "labels": ColumnLabels(), "duplicates": "drop"}
        odd = {5: ",a", 8: "text 9,a", 40: ",b", 41: "text 80,a", 77: "text 3,"}
        lines = [odd.get(n, f"text {n},{'ab'[n % 2]}") for n in range(90)] + ["text 80,a"] * 15
        data = "\n".join(("text,label", *lines, "")).encode()
        source = write_files(
            tmp_path / "source", {f"{n}.csv": data.replace(b"text ", b"%d " % n) for n in range(tables)}
        )
        (source / "0.csv").write_bytes(data)
        first = run(source, tmp_path / "1", **given)
        assert {"duplicate", "empty", "no_label", "duplicate_with_other_label"} == set(rejects(first)["reason"])
        second = run(source, tmp_path / "2", first, **given)
        assert second.metrics["unchanged"] == first.metrics["objects"]
        for name in ("index.parquet", "aside.parquet"):
            one, other = (pl.read_parquet(ran.outputs["manifest"] / name) for ran in (first, second))
            assert other.equals(one)


class TestProperties:
    @settings(max_examples=25, deadline=None)
    @given(before=labelled(), after=labelled(), seed=st.integers(0, 9), minimum=st.integers(0, 1))
    def test_whatever_comes_and_goes_channels_are_kept(
        self, before: dict[str, bytes], after: dict[str, bytes], seed: int, minimum: int
    ) -> None:
        """The two have some keys, contents and groups in common; the manifest itself looks for leaks."""
        options: dict[str, Any] = {
            "formats": (),
            "split": Split(seed=seed, minimum=minimum, group=r"/(?P<group>g\d+)-"),
            "conflicts": "keep",
        }
        with TemporaryDirectory() as folder:
            first = run(write_files(Path(folder, "1"), before), Path(folder, "task-1"), **options)
            kept = {key: data for key, data in before.items() if zlib.crc32(data) % 4}
            source = write_files(
                Path(folder, "2"), {**kept, **{key: after[key] for key in after.keys() - before.keys()}}
            )
            names = [f"{name}/g{number}-new.bin" for name in ("cats", "dogs") for number in range(900, 940)]
            write_files(source, {name: name.encode() for name in names})  # so that no class is too small
            second = run(source, Path(folder, "task-2"), first, **options)
            old, new = column(first, "channel"), column(second, "channel")
            assert {key: new[key] for key in old.keys() & new.keys()} == {
                key: old[key] for key in old.keys() & new.keys()
            }
            rows = index(second)
            for name in ("group", "content"):
                assert rows.group_by(name).agg(pl.col("channel").n_unique())["channel"].max() == 1
