from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.components.manifest.parts import write_stream
from millrace.components.manifest.spec import CsvLabels, KeysListing, ManifestParameters, Split, manifest
from millrace.components.manifest.writing import numbered
from millrace.errors import DataError, is_disk_full
from millrace.testing import Ran, run_component
from tests.components.manifest_data import column, index, pictures, reasons, rejects, run
from tests.conftest import Bucket
from tests.files import write_files

HOSTILE = (
    "cats/a b.png",
    'cats/quo"te.png',
    "cats/it's.png",
    "cats/100%25 #row=3.png",
    "cats/néé 猫.png",
    "cats/line\nbreak.png",
    "cats/back\\slash.png",
    "cats/{}{0}$1.png",
    "cats/?x=1&y=2.png",
)

_PEAK = """
import resource, sys
from pathlib import Path
from millrace.components.manifest.spec import KeysListing, ManifestParameters, manifest
from millrace.testing import run_component
given = ManifestParameters(
    source="s3://bucket/prefix", contents="listed", listing=KeysListing(path=sys.argv[1], column="key")
)
ran = run_component(manifest, given, Path(sys.argv[2]))
print(int(ran.metrics["objects"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def keys_table(path: Path, number: int) -> Path:
    """A list of keys in a bucket that nobody asks."""
    rows = pl.select(n=pl.int_range(number))
    digest = pl.concat_str(*(pl.col("n").hash(seed).cast(pl.String).str.zfill(20) for seed in range(2)))
    rows = rows.select(
        key=pl.format("class-{}/{}.jpg", pl.col("n") % 10, pl.col("n").cast(pl.String).str.zfill(9)),
        size=pl.col("n") % 1000 + 1,
        etag=digest.str.slice(0, 32),
    )
    rows.write_parquet(path)
    return path


def listed(tmp_path: Path, number: int, **parameters: Any) -> Ran:
    table = keys_table(tmp_path / "keys.parquet", number)
    given = {"contents": "listed", "listing": KeysListing(path=str(table)), **parameters}
    return run_component(manifest, ManifestParameters(source="s3://bucket/prefix", **given), tmp_path / "task")


def manifests(ran: Ran) -> dict[str, list[Any]]:
    return {file.name: json.loads(file.read_text()) for file in ran.outputs["manifest"].glob("*.manifest")}


class TestManyObjects:
    def test_a_list_of_keys_of_several_parts(self, tmp_path: Path) -> None:
        ran = listed(tmp_path, 120_000)
        rows = index(ran)
        assert rows.height == ran.metrics["objects"] == 120_000
        assert rows["key"].is_sorted()
        assert (rows["class_label"] == rows["key"].str.slice(0, 7)).all()
        assert (rows["uri"] == "s3://bucket/prefix/" + rows["key"]).all()
        shares = rows.group_by("class_label", "channel").len()
        wanted = {"train": 9600, "validation": 1200, "test": 1200}
        assert shares.height == 30
        assert all(abs(number - wanted[channel]) < 0.12 * wanted[channel] for _, channel, number in shares.rows())
        found = manifests(ran)
        for name in wanted:
            assert found[f"{name}.manifest"][1:] == rows.filter(pl.col("channel") == name)["key"].to_list()

    def test_memory_hardly_grows(self, tmp_path: Path) -> None:
        peaks = []
        for number in (100_000, 600_000):
            table = keys_table(tmp_path / f"{number}.parquet", number)
            command = [sys.executable, "-c", _PEAK, str(table), str(tmp_path / f"task-{number}")]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            assert int(told[-2]) == number
            peaks.append(1024 * int(told[-1]))
        assert (peaks[1] - peaks[0]) / 500_000 < 500, (
            peaks
        )  # the rows themselves are about 250 bytes, each several times

    def test_no_seed_and_no_part_makes_classes_uneven(self, tmp_path: Path) -> None:
        rows = index(listed(tmp_path, 60_000, split=Split(train=0.5, validation=0.25, test=0.25, seed=7)))
        half = rows.with_row_index().group_by(pl.col("index") // 30_000, "channel").len()
        assert all(abs(number - {"train": 15_000}.get(channel, 7_500)) < 400 for _, channel, number in half.rows())

    def test_a_channel_of_several_s3_manifests(self, tmp_path: Path) -> None:
        ran = listed(tmp_path, 60_000, entries=7_000)
        found = manifests(ran)
        rows = index(ran)
        for name in ("train", "validation", "test"):
            uris = rows.filter(pl.col("channel") == name)["key"].to_list()
            count = -(-len(uris) // 7_000)
            names = (
                [f"{name}-{n:05d}-of-{count:05d}.manifest" for n in range(count)] if count > 1 else [f"{name}.manifest"]
            )
            assert [key for one in names for key in found.pop(one)[1:]] == uris
        assert found == {}
        assert not list(ran.outputs["manifest"].glob(".*"))


class TestListed:
    def test_equal_contents_are_those_of_the_same_etag_and_size(self, tmp_path: Path, s3: Bucket) -> None:
        files = pictures("cats", "dogs", each=30)
        twins = {key.replace(".png", "-twin.png"): data for key, data in files.items()}
        source = s3.upload(
            write_files(tmp_path / "source", {**files, **twins, "dogs/both.png": files["cats/0.png"]}), "p"
        )
        ran = run_component(manifest, ManifestParameters(source=source, contents="listed"), tmp_path / "task")
        found = column(ran, "channel")
        assert all(found[key] == found[key.replace(".png", "-twin.png")] for key in files if key != "cats/0.png")
        assert set(reasons(ran)) == {"0.png", "0-twin.png", "both.png"}
        assert index(ran)["content"].null_count() == index(ran).height

    @pytest.mark.parametrize("form", ["{:032x}", "{:016x}0000000000000000", "v{}"])
    def test_etags_that_are_no_digests_are_taken_whole(self, tmp_path: Path, form: str) -> None:
        keys = tmp_path / "keys.csv"
        rows = (
            f"{name}/{n}.jpg,7,{form.format(n * 2 + (name == 'dogs'))}" for name in ("cats", "dogs") for n in range(40)
        )
        keys.write_text("\n".join(("key,size,etag", *rows)))
        given = ManifestParameters(source="s3://bucket/p", contents="listed", listing=KeysListing(path=str(keys)))
        ran = run_component(manifest, given, tmp_path / "task")
        assert (ran.metrics["objects"], ran.metrics["duplicates"]) == (80, 0)

    def test_objects_without_etag_stand_for_themselves(self, tmp_path: Path) -> None:
        files = {**pictures("cats", "dogs"), "cats/twin.png": pictures("cats")["cats/0.png"], "cats/x.jpg": b"text"}
        ran = run(tmp_path, files, contents="listed")
        assert ran.metrics["objects"] == 12
        assert ran.metrics["duplicates"] == 0
        assert index(ran)["content"].null_count() == 12

    def test_keys_alone_are_read_for_the_rest(self, tmp_path: Path, s3: Bucket) -> None:
        files = pictures("cats", "dogs")
        source = s3.upload(write_files(tmp_path / "source", files), "p")
        keys = tmp_path / "keys.csv"
        keys.write_text("\n".join(("name", *reversed(files), "cats/gone.png", "")))
        given = ManifestParameters(source=source, listing=KeysListing(path=str(keys), column="name"))
        ran = run_component(manifest, given, tmp_path / "task")
        assert column(ran, "size") == {key: len(data) for key, data in files.items()}
        assert reasons(ran) == {"gone.png": "changed"}

    def test_keys_that_are_missing(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", {**pictures("cats", "dogs"), "keys.csv": b"name\ncats/0.png\n"})
        given = ManifestParameters(source=str(source), listing=KeysListing(path=str(source / "keys.csv")))
        with pytest.raises(DataError, match="no column 'key'"):
            run_component(manifest, given, tmp_path / "task")


class TestHostileNames:
    def files(self) -> Mapping[str, bytes]:
        plain = pictures("cats", "dogs")
        return {**plain, **{key: data + b"0" for key, data in zip(HOSTILE, plain.values(), strict=False)}}

    def test_in_a_folder(self, tmp_path: Path) -> None:
        ran = run(tmp_path, self.files())
        assert set(index(ran)["key"]) == set(self.files())
        listed = [json.loads(file.read_text()) for file in ran.outputs["manifest"].glob("*.manifest")]
        uris = {head["prefix"] + key for head, *keys in listed for key in keys}
        assert uris == {(tmp_path / "source" / key).as_uri() for key in self.files()}

    def test_in_a_bucket(self, tmp_path: Path, s3: Bucket) -> None:
        files = {key: data for key, data in self.files().items() if "\n" not in key}  # which moto's server can't take
        for key, data in files.items():
            s3.put(f"p/{key}", data)
        ran = run_component(manifest, ManifestParameters(source=s3.uri("p")), tmp_path / "task")
        assert set(index(ran)["key"]) == set(files)
        assert set(index(ran)["uri"]) == {s3.uri(f"p/{key}") for key in files}

    def test_set_aside(self, tmp_path: Path) -> None:
        files = self.files()
        ran = run(tmp_path, {**files, **{f"{key}.twin": data for key, data in files.items()}}, duplicates="drop")
        details = set(rejects(ran)["detail"])
        assert f"the same content as {(tmp_path / 'source/cats/{}{0}$1.png').as_uri()}" in details
        assert len(details) == len(files)

    def test_with_a_table_of_labels(self, tmp_path: Path) -> None:
        keys = list(self.files())
        table = pl.DataFrame({"key": keys, "label": ["a", "b"] * (len(keys) // 2) + ["a"] * (len(keys) % 2)})
        files = {**self.files(), "labels.csv": table.write_csv().encode()}
        ran = run(tmp_path, files, labels=CsvLabels(path="labels.csv"))
        assert column(ran, "class_label") == dict(table.iter_rows())


class TestFullDisk:
    def test_is_told_as_such(self) -> None:
        rows = pl.DataFrame({"uri": ["x"] * 1000})
        with pytest.raises(pl.exceptions.ComputeError, match="No space left on device") as raised:
            write_stream(Path("/dev/full"), iter([rows, rows]), rows.schema)
        assert is_disk_full(raised.value)


class _Counted(str):
    compared = 0

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_many_classes_are_not_compared_with_each_other() -> None:
    names = [_Counted(f"class {number}") for number in range(2000)]
    labels = numbered([*names, "another"], list(reversed(names)))
    assert labels.tolist() == [*range(1999, -1, -1), -1]
    assert _Counted.compared < 20_000
