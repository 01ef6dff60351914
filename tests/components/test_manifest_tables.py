from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from millrace.components.manifest.spec import ColumnLabels, ManifestParameters, RegexLabels, Split, manifest
from millrace.errors import DataError
from millrace.runtime.schemas import Catalogue, read_json_model
from millrace.testing import Ran, run_component
from tests.components.manifest_data import files, index, reasons, rejects, table
from tests.conftest import Bucket
from tests.files import write_files

FORMATS = ("csv", "tsv", "parquet", "jsonl")


def run(tmp_path: Path, tables: Mapping[str, str | bytes], name: str = "task", **parameters: Any) -> Ran:
    source = write_files(
        tmp_path / "source", {key: data if isinstance(data, bytes) else data.encode() for key, data in tables.items()}
    )
    return run_component(manifest, rows_of(source, **parameters), tmp_path / name)


def rows_of(source: Path | str, **parameters: Any) -> ManifestParameters:
    given = {"formats": FORMATS, "labels": ColumnLabels(), **parameters}
    return ManifestParameters.model_validate({"source": str(source), **given})


def channels(ran: Ran) -> dict[str, str]:
    return dict(index(ran).select("key", "channel").iter_rows())


class TestRows:
    def test_each_is_an_object(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"data.csv": table(40)})
        rows = index(ran)
        assert rows["row"].to_list() == list(range(40))
        assert rows["key"].to_list() == [f"data.csv#row={number}" for number in range(40)]
        assert rows["uri"][7] == f"{(tmp_path / 'source/data.csv').as_uri()}#row=7"
        assert rows["class_label"].to_list() == ["a", "b"] * 20
        assert rows["size"][10] == len("text 10")
        assert rows["content"].n_unique() == 40
        assert rows["modified"].unique().to_list() == [(tmp_path / "source/data.csv").stat().st_mtime_ns]
        catalogue = read_json_model(ran.outputs["manifest"] / "classes.json", Catalogue)
        assert catalogue == Catalogue(classes=("a", "b"), label_column="label")

    def test_the_s3_manifests_name_each_file_once(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"one.csv": table(60), "two.csv": table(60, start=60)})
        for name in ("train", "validation", "test"):
            head, *keys = json.loads((ran.outputs["manifest"] / f"{name}.manifest").read_text())
            assert head == {"prefix": f"{(tmp_path / 'source').as_uri()}/"}
            assert keys == ["one.csv", "two.csv"]

    def test_the_same_content_in_every_format(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"text": [f"é {n}" for n in range(30)], "n": range(30), "label": ["a", "b", "c"] * 10})
        (tmp_path / "p").mkdir()
        frame.write_parquet(tmp_path / "p/x.parquet")
        source: dict[str, str | bytes] = {
            "csv": frame.write_csv(),
            "tsv": frame.write_csv(separator="\t"),
            "jsonl": frame.select("label", pl.col("n").cast(pl.String), "text").write_ndjson(),
            "parquet": (tmp_path / "p/x.parquet").read_bytes(),
        }
        found = {kind: index(run(tmp_path / kind, {f"x.{kind}": data})) for kind, data in source.items()}
        wanted = found["csv"].select("content", "channel", "label", "row", "size")
        for rows in found.values():
            assert rows.select("content", "channel", "label", "row", "size").equals(wanted)

    def test_a_single_file_is_a_source(self, tmp_path: Path) -> None:
        source = write_files(
            tmp_path / "source", {"a.csv": table(40).encode(), "b.csv": table(9).encode(), "x.txt": b"x"}
        )
        ran = run_component(manifest, rows_of(source / "a.csv"), tmp_path / "task")
        assert set(index(ran)["key"].str.split("#").list.first()) == {"a.csv"}
        assert index(ran)["prefix"][0] == f"{source.as_uri()}/"
        assert rejects(ran).is_empty()

    def test_a_dataset_of_an_earlier_task(self, tmp_path: Path) -> None:
        dataset = write_files(tmp_path / "dataset", {"ä 1.csv": table(40).encode()})
        parameters = ManifestParameters(formats=("csv",), labels=ColumnLabels())
        ran = run_component(manifest, parameters, tmp_path / "task", dataset=dataset)
        assert set(index(ran)["dataset_path"]) == {"%C3%A4%201.csv"}

    def test_space_makes_no_difference(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"a.csv": table(40) + '" text\t 7\n",b\n'})
        assert ran.metrics["duplicates"] == 1
        found = channels(ran)
        assert found["a.csv#row=40"] == found["a.csv#row=7"]

    def test_values_do_not_run_into_each_other(self, tmp_path: Path) -> None:
        pairs = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a|b", "c"), ("3:abc", "-")]
        lines = [f"{one},{two},{number % 2}" for number, (one, two) in enumerate(pairs)]
        more = [f"x{number},y,{number % 2}" for number in range(30)]
        ran = run(tmp_path, {"a.csv": "\n".join(("one,two,label", *lines, *more, ""))})
        assert ran.metrics["duplicates"] == 0
        assert index(ran)["content"].n_unique() == 36

    def test_chosen_columns(self, tmp_path: Path) -> None:
        lines = [f"{number % 20},{number},{'ab'[number % 2]}" for number in range(40)]
        text = "\n".join(("x,id,label", *lines, ""))
        assert run(tmp_path / "all", {"a.csv": text}).metrics["duplicates"] == 0
        chosen = run(tmp_path / "x", {"a.csv": text}, columns=("x",))
        assert chosen.metrics["duplicates"] == 20
        assert chosen.metrics["rejected"] == 0

    def test_bytes_in_structs_can_be_left_out_only(self, tmp_path: Path) -> None:
        images = [{"bytes": bytes([n]), "path": f"{n}.jpg"} for n in range(40)]
        frame = pl.DataFrame({"image": images, "id": range(40), "label": ["a", "b"] * 20})
        frame = frame.with_columns(took=pl.duration(seconds="id"))
        frame.write_parquet(tmp_path / "x.parquet")
        tables = {"x.parquet": (tmp_path / "x.parquet").read_bytes()}
        with pytest.raises(
            DataError, match=r"x\.parquet: values of column 'image', of type Struct.* manifest\.columns"
        ):
            run(tmp_path, tables, "1")
        assert index(run(tmp_path, tables, "2", columns=("id",)))["row_digest"].n_unique() == 40
        assert index(run(tmp_path, tables, "3", columns=("took",)))["content"].n_unique() == 40

    def test_rows_that_contradict_can_be_kept(self, tmp_path: Path) -> None:
        text = table(40) + "text 0,b\ntext 1,a\n"
        ran = run(tmp_path, {"a.csv": text})
        assert rejects(ran)["reason"].to_list() == ["duplicate_with_other_label"] * 4
        assert rejects(ran)["detail"][0] == "the same content is labelled a, b"
        kept = run(tmp_path, {"a.csv": text}, "kept", conflicts="keep")
        assert kept.metrics["objects"] == 42
        assert channels(kept)["a.csv#row=0"] == channels(kept)["a.csv#row=40"]

    def test_groups_of_a_column(self, tmp_path: Path) -> None:
        lines = [f"{number},{'ab'[number % 2]},p{number // 4}" for number in range(200)]
        ran = run(tmp_path, {"a.csv": "\n".join(("x,label,who", *lines, ""))}, split=Split(group_column="who"))
        rows = index(ran)
        assert rows["group"].n_unique() == 50
        assert rows.group_by("group").agg(pl.col("channel").n_unique())["channel"].max() == 1
        assert rows["channel"].n_unique() == 3

    def test_classes_of_the_file(self, tmp_path: Path) -> None:
        tables = {"cats/1.csv": "x\n" + "\n".join(map(str, range(20))), "dogs/1.csv": "x\n1000\n1001\n1002\n1003\n"}
        by_folder = run(tmp_path, tables, "folder", labels={"kind": "prefix"})
        by_name = run(tmp_path, tables, "name", labels=RegexLabels(pattern="(?P<label>cat|dog)"))
        assert index(by_folder)["class_label"].to_list() == ["cats"] * 20 + ["dogs"] * 4
        assert index(by_name)["class_label"].to_list() == ["cat"] * 20 + ["dog"] * 4


class TestRejects:
    def test_each_with_its_reason(self, tmp_path: Path) -> None:
        text = table(40) + ' ,a\ntext x,\n"","b"\ntext y, \ntext z,c\n'
        ran = run(tmp_path, {"a.csv": text, "notes.txt": "x", ".b.csv": "x"}, classes=("b", "a"))
        assert reasons(ran) == {
            ".b.csv": "hidden",
            "notes.txt": "wrong_type",
            "a.csv#row=40": "empty",
            "a.csv#row=41": "no_label",
            "a.csv#row=42": "empty",
            "a.csv#row=43": "no_label",
            "a.csv#row=44": "unknown_label",
        }
        assert index(ran).select("class_label", "label").unique().sort("label").rows() == [("b", 0), ("a", 1)]
        assert index(ran)["row"].to_list() == list(range(40))

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("text,kind\nx,a\n", r"a\.csv has no column 'label': set manifest\.labels\.column.*kind"),
            ("text,label\nx,a,b\ny,b\n", r"source/a\.csv.*"),
            ("", r"source/a\.csv|no usable objects"),
            ("text,label\n", r"source/a\.csv has no rows: is there only a header"),
            ("text,label\nx,a\ny,a\n", r"only one class, 'a' in the column 'label' of 2 rows.*set manifest.labels.col"),
            (
                "text,label\n" + "".join(f"t{one},{one / 7}\n" for one in range(30)),
                r"class '0\.0' has .*30 objects have 30 classes, and all are numbers: .*Regression is not offered",
            ),
            ("label\na\nb\n", "no columns but those of classes"),
        ],
    )
    def test_tables_that_are_refused(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(DataError, match=told):
            run(tmp_path, {"a.csv": text})

    def test_a_column_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no column 'texts': set manifest\.columns: did you mean 'text'"):
            run(tmp_path, {"a.csv": table(9)}, columns=("texts",))

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"formats": ("csv", "png")}, "formats names tables"),
            ({"contents": "listed"}, "contents=listed is for whole objects"),
            ({"labels": {"kind": "csv", "path": "x"}}, "labels.kind=csv names whole objects"),
            ({"formats": ("text",)}, "labels.kind=column is for rows"),
            ({"formats": ("text",), "labels": {"kind": "prefix"}, "columns": ("x",)}, "columns is for rows"),
            ({"columns": ("x", "x")}, "'x' is named twice"),
            ({"split": {"group": "(?P<group>x)", "group_column": "x"}}, "give one of the two"),
        ],
    )
    def test_options_that_do_not_go_together(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            rows_of("x", **given)


class TestChannels:
    @pytest.mark.parametrize(
        "names",
        [
            ("train.csv", "validation.csv", "test.csv"),
            ("data/train-00000-of-00001.csv", "data/dev-00000-of-00001.csv", "data/test-0.csv"),
            ("train/x.csv", "valid/x.csv", "Test/x.csv"),
        ],
    )
    def test_are_honoured(self, tmp_path: Path, names: tuple[str, str, str]) -> None:
        ran = run(tmp_path, {name: table(20, start=20 * number) for number, name in enumerate(names)})
        found = {(key.partition("#")[0], channel) for key, channel in channels(ran).items()}
        assert found == set(zip(names, ("train", "validation", "test"), strict=True))

    def test_leaks_are_taken_from_train(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {"train.csv": table(100), "test.csv": table(20, start=90)})
        assert set(rejects(ran)["reason"]) == {"duplicate_across_channels"}
        assert rejects(ran)["uri"].str.split("/").list.last().to_list() == [
            f"train.csv#row={n}" for n in range(90, 100)
        ]
        assert ran.metrics["test"] == 20
        assert ran.metrics["validation"] > 0

    def test_a_table_of_no_channel_beside_them(self, tmp_path: Path) -> None:
        tables = {"train.csv": table(20), "test.csv": table(20, start=20), "extra.csv": table(9, start=50)}
        with pytest.raises(DataError, match=r"extra\.csv lies beside tables of train"):
            run(tmp_path, tables)
        assert run(tmp_path, tables, "2", exclude=("extra*",)).metrics["objects"] == 40
        assert run(tmp_path, tables, "3", split=Split(folders="ignore")).metrics["objects"] == 49

    def test_name_and_folder_that_contradict(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"train/test\.csv is of train by its folder and of test by its name"):
            run(tmp_path, {"train/test.csv": table(20)})


class TestTexts:
    def test_files_in_utf_8(self, tmp_path: Path) -> None:
        texts = {
            f"{name}/{number}.txt": f"né {name} {number}".encode() for name in ("good", "bad") for number in range(9)
        }
        broken = {"bad/latin.txt": "né".encode("latin-1"), "bad/zero.txt": b"a\0b", "bad/x.png": b"\x89PNG\r\n\x1a\n"}
        source = write_files(tmp_path / "source", {**texts, **broken})
        ran = run_component(manifest, ManifestParameters(source=str(source), formats=("text",)), tmp_path / "task")
        assert ran.metrics["objects"] == 18
        assert reasons(ran) == dict.fromkeys(("latin.txt", "zero.txt", "x.png"), "wrong_type")
        assert index(ran)["row"].null_count() == 18


class TestS3:
    def test_the_same_as_a_folder(self, tmp_path: Path, s3: Bucket) -> None:
        tables = {"a b%.csv": table(40).encode(), "é/x.jsonl": b'{"text": "x", "label": "a"}\n'}
        local = run_component(manifest, rows_of(write_files(tmp_path / "source", tables)), tmp_path / "local")
        remote = run_component(manifest, rows_of(s3.upload(tmp_path / "source", "some/prefix")), tmp_path / "remote")
        own = ("uri", "prefix", "etag", "modified")
        assert index(remote).drop(own).equals(index(local).drop(own))
        assert index(remote)["uri"][0] == f"s3://{s3.name}/some/prefix/a b%.csv#row=0"
        assert [file.name for file in files(remote)] == [file.name for file in files(local)]

    def test_a_single_object_is_a_source(self, tmp_path: Path, s3: Bucket) -> None:
        s3.put("p/train.csv", table(40).encode())
        s3.put("p/train.csv.bak", b"x")
        s3.put("p/a.csv", b"x")
        ran = run_component(manifest, rows_of(s3.uri("p/train.csv")), tmp_path / "task")
        assert ran.metrics["objects"] == 40
        assert index(ran)["prefix"][0] == f"s3://{s3.name}/p/"
        assert index(ran)["etag"].null_count() == 0
