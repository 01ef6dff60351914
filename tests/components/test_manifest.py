from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from millrace.components.manifest.spec import CsvLabels, ManifestParameters, RegexLabels, Split, manifest
from millrace.errors import ConfigError, DataError
from millrace.runtime.execute import attempt
from millrace.runtime.schemas import Catalogue, read_json_model
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.testing import Ran, run_component
from tests.components.manifest_data import (
    column,
    files,
    index,
    keys,
    labelled,
    picture,
    pictures,
    reasons,
    rejects,
    run,
)
from tests.conftest import SECRET_KEY, Bucket
from tests.faults import SLOW_DOWN, Chooser, faulty_proxy
from tests.files import write_files
from tests.pictures import saved


def known_by(tmp_path: Path, dataset: Path, uri: str, **parameters: Any) -> Ran:
    """Run on a dataset of an earlier task that has a URI."""
    request = TaskRequest(
        name="manifest",
        component=manifest.spec.entry,
        parameters=ManifestParameters(**parameters).model_dump(mode="json"),
        inputs={"dataset": (GivenArtifact(path=dataset, uri=uri),)},
    )
    result = attempt(tmp_path / "task", request)
    outputs = {name: tmp_path / "task" / made.path for name, made in result.outputs.items()}
    return Ran(outputs=outputs, metrics=result.metrics, metadata={})


class TestOutputs:
    def test_the_lineage_table(self, tmp_path: Path) -> None:
        ran = run(tmp_path, pictures("cats", "dogs"))
        rows = index(ran)
        assert rows.columns == [
            "uri", "prefix", "key", "class_label", "label", "channel", "size", "modified", "etag", "version", "content",
            "group", "dataset_path", "row", "row_digest",
        ]  # fmt: skip
        assert rows["key"].to_list() == sorted(pictures("cats", "dogs"))
        assert rows["class_label"].to_list() == ["cats"] * 5 + ["dogs"] * 5
        assert rows["label"].to_list() == [0] * 5 + [1] * 5
        assert rows.select((pl.col("prefix") + pl.col("key") == pl.col("uri")).all()).item()
        assert rows["size"][0] == len(picture(0))
        assert rows["dataset_path"].null_count() == rows.height

    def test_classes_and_s3_manifests(self, tmp_path: Path) -> None:
        ran = run(tmp_path, pictures("cats", "dogs"))
        folder = ran.outputs["manifest"]
        assert read_json_model(folder / "classes.json", Catalogue) == Catalogue(classes=("cats", "dogs"))
        listed = []
        for channel in ("train", "validation", "test"):
            head, *keys = json.loads((folder / f"{channel}.manifest").read_text())
            wanted = index(ran).filter(pl.col("channel") == channel)["uri"].to_list()
            assert [head["prefix"] + key for key in keys] == wanted
            listed += keys
        assert sorted(listed) == sorted(pictures("cats", "dogs"))

    def test_metrics_and_metadata(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {**pictures("cats", "dogs"), "cats/again.png": picture(0), "cats/empty.png": b""})
        assert ran.metrics["objects"] == 11
        assert ran.metrics["classes"] == 2
        assert ran.metrics["rejected"] == 1
        assert ran.metrics["duplicates"] == 1
        assert sum(ran.metadata["manifest"]["objects"].values()) == 11

    def test_the_same_bytes_twice(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", {**pictures("cats", "dogs"), "cats/x.txt": b"x", "dogs/.y": b"y"})
        parameters = ManifestParameters(source=str(source))
        first, second = (run_component(manifest, parameters, tmp_path / name) for name in ("one", "two"))
        for port, folder in first.outputs.items():
            for file in folder.iterdir():
                assert file.read_bytes() == (second.outputs[port] / file.name).read_bytes(), file.name

    def test_a_dataset_of_an_earlier_task(self, tmp_path: Path) -> None:
        dataset = write_files(tmp_path / "dataset", pictures("cats", "dogs"))
        ran = run_component(manifest, ManifestParameters(), tmp_path / "task", dataset=dataset)
        assert ran.metrics["objects"] == 10
        rows = index(ran)
        assert rows["dataset_path"].to_list() == rows["key"].to_list()
        assert rows["uri"].to_list() == [(dataset / key).as_uri() for key in rows["key"]]

    def test_a_dataset_that_other_machines_know(self, tmp_path: Path) -> None:
        dataset = write_files(tmp_path / "dataset", {**pictures("cats", "dogs"), "dogs/ä 1.png": picture(99)})
        write_files(dataset, {"dogs/.DS_Store": b"x"})
        ran = known_by(tmp_path, dataset, "s3://store/run/dataset")
        rows = index(ran)
        assert rows["prefix"].unique().to_list() == ["s3://store/run/dataset/"]
        assert "s3://store/run/dataset/dogs/ä 1.png" in rows["uri"].to_list()
        assert "dogs/%C3%A4%201.png" in rows["dataset_path"].to_list()
        assert rejects(ran)["uri"].to_list() == ["s3://store/run/dataset/dogs/.DS_Store"]
        test = json.loads((ran.outputs["manifest"] / "test.manifest").read_text())
        assert test[0] == {"prefix": "s3://store/run/dataset/"}
        assert set(test[1:]) <= set(rows["key"])
        assert str(tmp_path).encode() not in b"".join(file.read_bytes() for file in files(ran))

    @pytest.mark.parametrize("name", ["cats/0.png", "s3://store/dataset/cats/0.png"])
    def test_a_table_of_labels_in_a_dataset_that_other_machines_know(self, tmp_path: Path, name: str) -> None:
        keys = [f"{folder}/{number}.png" for folder in ("cats", "dogs") for number in range(5)]
        lines = [f"{name.replace('cats/0.png', key)},{key[:3]}" for key in keys]
        table = "\n".join(["key,label", *lines]).encode()
        dataset = write_files(tmp_path / "dataset", {**pictures("cats", "dogs"), "labels.csv": table})
        ran = known_by(tmp_path, dataset, "s3://store/dataset", labels=CsvLabels(path="labels.csv"))
        assert set(column(ran, "class_label").values()) == {"cat", "dog"}
        assert reasons(ran) == {}


class TestSource:
    def test_one_of_source_and_dataset(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"set manifest\.source"):
            run_component(manifest, ManifestParameters(), tmp_path / "none")
        with pytest.raises(ConfigError, match="not both"):
            run_component(manifest, ManifestParameters(source="x"), tmp_path / "both", dataset=tmp_path)

    def test_missing_or_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file or folder"):
            run_component(manifest, ManifestParameters(source=str(tmp_path / "none")), tmp_path / "task")
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(DataError, match="there are no objects below"):
            run_component(manifest, ManifestParameters(source=str(empty)), tmp_path / "task")

    def test_include_and_exclude(self, tmp_path: Path) -> None:
        files = {**pictures("2023/cats", "2024/cats", "2024/dogs"), "2024/dogs/thumb-1.png": picture(999)}
        ran = run(tmp_path, files, include=("2024/*",), exclude=("*/thumb-*",))
        assert keys(ran) == set(pictures("2024/cats", "2024/dogs"))
        assert ran.metrics["rejected"] == 0

    def test_patterns_that_choose_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"the first key is 'cats/0\.png'"):
            run(tmp_path, pictures("cats", "dogs"), include=("birds/*",))


class TestJunk:
    def test_each_kind_with_its_reason(self, tmp_path: Path) -> None:
        junk = {
            "cats/.DS_Store": b"\0\0\0\1Bud1",
            "cats/Thumbs.db": b"x",
            "cats/._0.png": b"x",
            "__MACOSX/cats/1.png": picture(1000),
            "cats/.hidden.png": picture(1001),
            ".git/config.png": picture(1002),
            "cats/empty.png": b"",
            "cats/text.jpg": b"this is a text",
            "cats/cut.png": picture(1003)[:6],
            "cats/drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "cats/large.png": picture(1004) + bytes(20_000),
            "readme.png": picture(1005),
        }
        ran = run(tmp_path, {**pictures("cats", "dogs"), **junk}, max_megabytes=0.01)
        assert reasons(ran) == {
            ".DS_Store": "junk",
            "Thumbs.db": "junk",
            "._0.png": "junk",
            "1.png": "junk",
            ".hidden.png": "hidden",
            "config.png": "hidden",
            "empty.png": "empty",
            "text.jpg": "wrong_type",
            "cut.png": "wrong_type",
            "drawing.png": "wrong_type",
            "large.png": "too_large",
            "readme.png": "no_label",
        }
        assert ran.metrics["objects"] == 10
        assert ran.metrics["rejected"] == len(junk)
        assert rejects(ran).columns == ["uri", "reason", "detail"]
        assert (rejects(ran)["detail"].str.len_chars() > 0).all()

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
    def test_content_counts_not_the_suffix(self, tmp_path: Path, form: str) -> None:
        ran = run(tmp_path, {**pictures("cats", "dogs"), "cats/x.txt": picture(999, form)})
        assert "cats/x.txt" in keys(ran)

    def test_formats_can_be_narrowed_or_left_open(self, tmp_path: Path) -> None:
        files = {**pictures("cats", "dogs"), "cats/x.jpg": picture(999, "JPEG"), "cats/x.txt": b"text"}
        narrow = run(tmp_path / "narrow", files, formats=("png",))
        assert reasons(narrow) == {"x.jpg": "wrong_type", "x.txt": "wrong_type"}
        assert reasons(run(tmp_path / "open", files, formats=())) == {}

    def test_huge_pictures_are_left_to_preprocess(self, tmp_path: Path) -> None:
        huge = saved(Image.new("1", (20_000, 20_000)))
        ran = run(tmp_path, {**pictures("cats", "dogs"), "cats/huge.png": huge})
        assert "cats/huge.png" in keys(ran)

    def test_nothing_but_junk(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"(?s)no usable objects.*1 empty, 1 wrong_type.*1.png: empty: 0 bytes\n"):
            run(tmp_path, {"cats/1.png": b"", "dogs/1.png": b"text"})

    def test_pictures_in_no_folder_are_told_why(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"2 no_label; the first of each:\n.*/1.png: no_label: it lies in no class"):
            run(tmp_path, {"1.png": picture(1), "2.png": picture(2)})

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
    def test_broken_headers_are_called_that(self, tmp_path: Path, form: str) -> None:
        ran = run(tmp_path, {**pictures("cats", "dogs"), "cats/cut": picture(999, form)[:16]})
        assert rejects(ran)["detail"].to_list() == [f"it begins as {form}, but its header is broken or cut off"]

    def test_links_to_nothing(self, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", pictures("cats", "dogs"))
        (source / "cats" / "moved.png").symlink_to(tmp_path / "gone.png")
        assert reasons(run(tmp_path, {})) == {"moved.png": "broken_link"}


class TestLabels:
    def test_last_folder_above(self, tmp_path: Path) -> None:
        ran = run(tmp_path, pictures("a/cats", "b/cats", "b/c/dogs"))
        assert set(column(ran, "class_label").values()) == {"cats", "dogs"}

    def test_accents_written_apart_are_the_same_class(self, tmp_path: Path) -> None:
        apart, joined = unicodedata.normalize("NFD", "né"), "né"
        ran = run(tmp_path, pictures(f"a/{apart}", f"b/{joined}", "dogs"))
        assert set(column(ran, "class_label").values()) == {joined, "dogs"}

    def test_pattern(self, tmp_path: Path) -> None:
        files = {f"{name}_{number}.png": picture(number + base) for base, name in ((0, "cat"), (50, "dog"))
                 for number in range(5)}  # fmt: skip
        ran = run(tmp_path, {**files, "7.png": picture(999)}, labels=RegexLabels(pattern=r"^(?P<label>[a-z]+)_"))
        assert set(column(ran, "class_label").values()) == {"cat", "dog"}
        assert reasons(ran) == {"7.png": "no_label"}

    @pytest.mark.parametrize(("pattern", "told"), [("(", "not a regular expression"), ("cat", "(?P<label>...)")])
    def test_patterns_are_checked_early(self, pattern: str, told: str) -> None:
        with pytest.raises(ValidationError) as raised:
            RegexLabels(pattern=pattern)
        assert told in str(raised.value)

    @pytest.mark.parametrize("by", ["key", "uri"])
    def test_table_inside_the_source(self, tmp_path: Path, by: str) -> None:
        base = f"{(tmp_path / 'source').as_uri()}/" if by == "uri" else ""
        files = {f"{number}.png": picture(number) for number in range(10)}
        lines = [f"{base}{name},{'odd' if number % 2 else ' even'}" for number, name in enumerate(files)]
        table = "\n".join(("name,kind", *lines, f"{base}missing.png,odd"))
        files["unknown.png"] = picture(999)
        labels = CsvLabels(path="labels.csv", object_column="name", label_column="kind")
        ran = run(tmp_path, {**files, "labels.csv": table.encode("utf-8-sig")}, labels=labels)
        assert column(ran, "class_label")["3.png"] == "odd"
        assert column(ran, "class_label")["4.png"] == "even"
        assert reasons(ran) == {"missing.png": "missing", "unknown.png": "no_label"}

    def test_table_elsewhere(self, tmp_path: Path) -> None:
        lines = [f"{key},{'c' if 'cats' in key else 'd'}" for key in pictures("cats", "dogs")]
        (tmp_path / "labels.csv").write_text("\n".join(("key,label", *lines)))
        ran = run(tmp_path, pictures("cats", "dogs"), labels=CsvLabels(path=str(tmp_path / "labels.csv")))
        assert set(column(ran, "class_label").values()) == {"c", "d"}

    @pytest.mark.parametrize(
        ("table", "told"),
        [
            (b"key,label\ncats/0.png,cat\ncats/0.png,dog\n", r"two labels to one object.*cats/0\.png.*'cat', 'dog'"),
            (b"file,label\nx,y\n", "no column 'key'; it has: file, label"),
            (b"key,label\n", "has no rows"),
            (b"", "not a CSV file"),
            (b"key,label\nx,y,z\n", "not a CSV file"),
            (b"key,label\n\xff\xfe,y\n", "not a CSV file"),
            (b"key,label\nnothing.png,y\n", "no value of the column 'key' is a key"),
        ],
    )
    def test_tables_that_are_refused(self, tmp_path: Path, table: bytes, told: str) -> None:
        with pytest.raises(DataError, match=told):
            run(tmp_path, {**pictures("cats", "dogs"), "l.csv": table}, labels=CsvLabels(path="l.csv"))

    def test_table_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            run(tmp_path, pictures("cats", "dogs"), labels=CsvLabels(path="labels.csv"))

    def test_one_class_only(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="only one class, 'cats'"):
            run(tmp_path, pictures("cats"))


class TestFolders:
    @pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "Testing")])
    def test_channels_are_honoured(self, tmp_path: Path, names: tuple[str, str, str]) -> None:
        ran = run(tmp_path, pictures(*(f"{name}/{label}" for name in names for label in ("cats", "dogs"))))
        channels = dict(zip(names, ("train", "validation", "test"), strict=True))
        assert all(channels[key.partition("/")[0]] == channel for key, channel in column(ran, "channel").items())
        assert set(column(ran, "class_label").values()) == {"cats", "dogs"}

    def test_a_missing_one_is_split_off_train(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "test/cats", "test/dogs", each=60)
        found = column(run(tmp_path, files), "channel")
        assert {channel for key, channel in found.items() if key.startswith("test/")} == {"test"}
        taken = [channel for key, channel in found.items() if key.startswith("train/")]
        assert set(taken) == {"train", "validation"}
        assert 2 <= taken.count("validation") <= 30

    def test_other_folders_beside_them(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "val/cats", "val/dogs", "extra/cats")
        assert reasons(run(tmp_path, files)) == {f"{number}.png": "outside_channels" for number in range(5)}

    def test_test_folder_beside_classes(self, tmp_path: Path) -> None:
        found = column(run(tmp_path, pictures("cats", "dogs", "test/cats", "test/dogs")), "channel")
        assert all((channel == "test") == key.startswith("test/") for key, channel in found.items())

    def test_nothing_to_train_on(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="folders for test, validation but no objects to train on"):
            run(tmp_path, pictures("val/cats", "val/dogs", "test/cats", "test/dogs"))

    def test_train_may_be_a_class(self, tmp_path: Path) -> None:
        assert set(column(run(tmp_path, pictures("train", "plane")), "class_label").values()) == {"train", "plane"}

    def test_one_level_too_deep_is_refused(self, tmp_path: Path) -> None:
        files = pictures("archive/train/cats", "archive/train/dogs", "archive/test/cats", "archive/test/dogs")
        with pytest.raises(DataError, match=r"folders of channels are in archive/.*set manifest.source"):
            run(tmp_path / "1", {**files, "README.md": b"x"})
        mixed = run(tmp_path / "2", files, split=Split(folders="ignore"))
        assert mixed.metrics["objects"] == len(files)

    def test_they_can_be_ignored(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "test/cats", "test/dogs", each=30)
        found = column(run(tmp_path, files, split=Split(folders="ignore")), "channel")
        assert {channel for key, channel in found.items() if key.startswith("test/")} > {"test"}

    def test_class_without_test_objects(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "test/cats")
        with pytest.raises(
            DataError, match=r"class 'dogs' has 0 objects for test, at least 1.*or lower manifest.split.mi"
        ):
            run(tmp_path / "1", files)
        with pytest.raises(DataError, match=r"Every class needs an object to train on\. (?!.*minimum).*folders=ignore"):
            run(tmp_path / "2", pictures("train/cats", "test/cats", "test/dogs"), split=Split(minimum=0))
        assert run(tmp_path / "0", files, split=Split(minimum=0)).metrics["objects"] == 15

    def test_leaked_pictures_are_taken_from_train(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "val/cats", "val/dogs", "test/cats", "test/dogs")
        files |= {"train/cats/leak.png": files["test/cats/0.png"], "val/dogs/leak.png": files["test/dogs/0.png"]}
        ran = run(tmp_path, files)
        assert reasons(ran) == {"leak.png": "duplicate_across_channels"}
        assert ran.metrics["rejected"] == 2
        assert column(ran, "channel")["test/cats/0.png"] == "test"


class TestDuplicates:
    def test_equal_contents_share_a_channel(self, tmp_path: Path) -> None:
        files = pictures("cats", "dogs", each=30)
        twins = {key.replace(".png", "-twin.png"): data for key, data in files.items()}
        ran = run(tmp_path, {**files, **twins})
        found = column(ran, "channel")
        assert all(found[key] == found[key.replace(".png", "-twin.png")] for key in files)
        assert ran.metrics["duplicates"] == 60

    def test_they_can_be_dropped(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {**pictures("cats", "dogs"), "cats/9.png": picture(0)}, duplicates="drop")
        assert reasons(ran) == {"9.png": "duplicate"}
        assert rejects(ran)["detail"][0].endswith("/cats/0.png")

    def test_the_same_picture_in_two_classes(self, tmp_path: Path) -> None:
        ran = run(tmp_path, {**pictures("cats", "dogs"), "dogs/both.png": picture(0)})
        assert reasons(ran) == {"0.png": "duplicate_with_other_label", "both.png": "duplicate_with_other_label"}
        assert set(rejects(ran)["detail"]) == {"the same content is labelled cats, dogs"}


class TestSplit:
    def test_fractions(self, tmp_path: Path) -> None:
        rows = index(
            run(tmp_path, pictures("cats", "dogs", each=500), split=Split(train=0.5, validation=0.2, test=0.3))
        )
        shares = rows.group_by("class_label", "channel").len().rows()
        wanted = {"train": 250, "validation": 100, "test": 150}
        assert len(shares) == 6
        assert all(abs(number - wanted[channel]) < 45 for _, channel, number in shares)

    def test_seed(self, tmp_path: Path) -> None:
        files = pictures("cats", "dogs", each=30)
        one, two = (column(run(tmp_path / str(seed), files, split=Split(seed=seed)), "channel") for seed in (1, 2))
        assert one != two

    def test_channels_can_be_left_out(self, tmp_path: Path) -> None:
        ran = run(tmp_path, pictures("cats", "dogs"), split=Split(train=1, validation=0, test=0))
        assert set(column(ran, "channel").values()) == {"train"}
        assert json.loads((ran.outputs["manifest"] / "test.manifest").read_text())[1:] == []

    def test_fractions_must_add_up(self) -> None:
        with pytest.raises(ValidationError, match=r"add up to 1, they add up to 0\.9"):
            Split(train=0.7)

    @pytest.mark.parametrize("minimum", [1, 2])
    def test_small_classes_are_mended(self, tmp_path: Path, minimum: int) -> None:
        rows = index(run(tmp_path, pictures("a", "b", "c", "d", each=3 * minimum), split=Split(minimum=minimum)))
        counts = {(label, channel): n for label, channel, n in rows.group_by("class_label", "channel").len().rows()}
        assert counts == {(label, name): minimum for label in "abcd" for name in ("train", "validation", "test")}

    def test_too_small_a_class(self, tmp_path: Path) -> None:
        files = {**pictures("cats", each=20), "dogs/1.png": picture(998), "dogs/2.png": picture(999)}
        with pytest.raises(DataError, match=r"class 'dogs' has 0 objects for .*it has 2 objects in 2 parts"):
            run(tmp_path, files)

    def test_groups_stay_together(self, tmp_path: Path) -> None:
        names = [f"{label}/p{number:02d}" for number in range(20) for label in ("cats", "dogs")]
        files = {f"{name}-{shot}.png": picture(3 * seed + shot) for seed, name in enumerate(names) for shot in range(3)}
        ran = run(tmp_path, files, split=Split(group=r"(?P<group>p\d+)-"))
        rows = index(ran)
        assert rows["group"].n_unique() == 20
        assert rows.group_by("group").agg(pl.col("channel").n_unique())["channel"].to_list() == [1] * 20
        assert rows["channel"].n_unique() == 3

    def test_a_picture_in_two_groups(self, tmp_path: Path) -> None:
        files = {**pictures("cats", "dogs", each=9), "cats/99.png": picture(0)}
        ran = run(tmp_path, files, split=Split(group=r"(?P<group>\d+)\."))
        assert reasons(ran) == {"99.png": "duplicate_across_groups"}

    def test_a_group_in_two_folders(self, tmp_path: Path) -> None:
        files = pictures("train/cats", "train/dogs", "test/cats", "test/dogs")
        with pytest.raises(DataError, match="group:0 lies in the folders of test and train"):
            run(tmp_path, files, split=Split(group=r"(?P<group>\d+)\."))


def divided(files: Mapping[str, bytes], **split: Any) -> pl.DataFrame:
    with TemporaryDirectory() as folder:
        return index(run(Path(folder), files, formats=(), split=Split(**split)))


class TestProperties:
    @settings(max_examples=20, deadline=None)
    @given(files=labelled(), data=st.data())
    def test_no_object_moves_when_others_are_added(self, files: dict[str, bytes], data: st.DataObject) -> None:
        added = data.draw(st.dictionaries(st.integers(1000, 2000), st.binary(min_size=9, max_size=9), max_size=20))
        more = {f"{'cats' if number % 2 else 'dogs'}/{number}.bin": content for number, content in added.items()}
        before = divided(files, minimum=0)
        after = divided({**files, **more}, minimum=0)
        joined = before.join(after, on="key")
        assert joined.height >= before.height - len(more)
        assert joined["channel"].eq(joined["channel_right"]).all()

    @settings(max_examples=20, deadline=None)
    @given(files=labelled(), seed=st.integers(0, 99))
    def test_groups_and_equal_contents_are_never_parted(self, files: dict[str, bytes], seed: int) -> None:
        rows = divided(files, seed=seed, group=r"/(?P<group>g\d+)-", minimum=1)
        for name in ("group", "content"):
            assert rows.group_by(name).agg(pl.col("channel").n_unique())["channel"].max() == 1
        assert rows.select("class_label", "channel").n_unique() == 6


class TestS3:
    junk: ClassVar[dict[str, bytes]] = {"cats/x.jpg": b"text", "cats/empty.png": b"", ".DS_Store": b"x"}
    files: ClassVar[dict[str, bytes]] = {**pictures("cats", "dogs", "é b%", each=4), **junk}

    def comparable(self, ran: Ran) -> tuple[list[Any], list[Any], dict[str, float]]:
        rejected = rejects(ran).with_columns(pl.col("uri").str.split("/").list.last())
        return index(ran).drop("uri", "prefix", "etag", "modified").rows(), rejected.rows(), ran.metrics

    @pytest.mark.parametrize(
        "choose",
        [
            lambda number, path: None,
            lambda number, path: SLOW_DOWN if number % 3 == 0 else None,
            lambda number, path: "drop" if number % 3 == 1 else None,
            lambda number, path: "break_off" if number % 3 == 0 else None,
            lambda number, path: "slow" if number % 5 == 0 else None,
        ],
        ids=["well", "throttled", "dropped", "broken_off", "slow"],
    )
    def test_the_same_as_a_folder(
        self, tmp_path: Path, s3: Bucket, choose: Chooser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local = run(tmp_path / "local", self.files)
        source = s3.upload(tmp_path / "local" / "source", "some/prefix")
        with faulty_proxy(s3.endpoint, choose) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            remote = run_component(manifest, ManifestParameters(source=source), tmp_path / "remote")
        assert self.comparable(remote) == self.comparable(local)
        rows = index(remote)
        assert rows["uri"][0] == f"{source}/{rows['key'][0]}"
        assert rows["etag"].null_count() == 0

    def test_no_credentials_in_what_is_written(self, tmp_path: Path, s3: Bucket) -> None:
        source = s3.upload(write_files(tmp_path / "source", self.files), "p")
        run_component(manifest, ManifestParameters(source=source), tmp_path / "task")
        written = b"".join(file.read_bytes() for file in (tmp_path / "task").rglob("*") if file.is_file())
        assert SECRET_KEY.encode() not in written
        assert b"test-access-key" not in written

    def test_an_object_that_vanishes_is_set_aside(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = s3.upload(write_files(tmp_path / "source", pictures("cats", "dogs")), "p")

        def delete_first(number: int, path: str) -> None:
            if number == 1:  # after the listing
                s3.client.delete_object(Bucket=s3.name, Key="p/dogs/4.png")

        with faulty_proxy(s3.endpoint, delete_first) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            parameters = ManifestParameters(source=source, concurrency=1)
            ran = run_component(manifest, parameters, tmp_path / "task")
        assert reasons(ran) == {"4.png": "changed"}

    def test_a_table_of_labels(self, tmp_path: Path, s3: Bucket) -> None:
        source = s3.upload(write_files(tmp_path / "source", pictures("cats", "dogs")), "p")
        lines = [f"{source}/{key},{key[0]}" for key in pictures("cats", "dogs")]
        table = s3.put("labels.csv", "\n".join(("key,label", *lines)).encode())
        parameters = ManifestParameters(source=source, labels=CsvLabels(path=table))
        ran = run_component(manifest, parameters, tmp_path / "task")
        assert set(column(ran, "class_label").values()) == {"c", "d"}
