"""Preprocess turns each shard's objects into a record file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars
import pytest
from PIL import Image

from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.errors import ConfigError, DataError
from millrace.runtime.context import Share
from millrace.runtime.datasets import load_arrays
from millrace.runtime.images import decode_image
from millrace.runtime.records import counts, read_images
from millrace.runtime.schemas import (
    ImageRecords,
    ShardCounts,
    read_records_schema,
)
from millrace.testing import run_component
from tests.components.preprocess.material import (
    Listed,
    contents,
    make_shards,
    pictures,
    put,
    small,
)
from tests.pictures import noise, saved


class TestRecords:
    def test_hold_each_picture_as_serving_would_see_it(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 7)
        shards = make_shards(
            tmp_path / "in",
            {"train-00000-of-00002": rows[:4], "train-00001-of-00002": rows[4:6], "test-00000-of-00001": rows[6:]},
        )
        records = run_component(preprocess, small(), tmp_path / "task", shards=shards).outputs["records"]
        schema = ImageRecords(height=10, width=12, channels=3, encoding="png", resize="crop", classes=("cat", "dog"))
        assert read_records_schema(records) == schema
        images, labels = load_arrays(records, "train")
        assert labels.tolist() == [0, 1, 0, 1, 0, 1]
        for index, image in enumerate(images):
            np.testing.assert_array_equal(image, decode_image(saved(noise(index), "PNG"), schema))
        (record,) = read_images(records / "test-00000-of-00001.tfrecord")
        assert (record.uri, record.label) == (rows[6].uri, 0)

    @pytest.mark.parametrize("encoding", ["jpeg", "raw"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_other_encodings(self, tmp_path: Path, encoding: Any, channels: Any) -> None:
        data = saved(Image.new("RGB", (50, 50), (90, 90, 90)), "JPEG")
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": [put(tmp_path / "objects", "a.jpg", data)]})
        form = ImageData(height=8, width=8, encoding=encoding, channels=channels)
        ran = run_component(preprocess, PreprocessParameters(data=form), tmp_path / "task", shards=shards)
        images, _ = load_arrays(ran.outputs["records"], "train")
        assert images.shape == (1, 8, 8, channels)
        np.testing.assert_allclose(images, 90, atol=1)

    def test_have_counts(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 5)
        broken = put(tmp_path / "objects", "broken.png", b"no picture")
        shards = make_shards(tmp_path / "in", {"validation-00000-of-00001": [*rows, broken]})
        records = run_component(preprocess, small(), tmp_path / "task", shards=shards).outputs["records"]
        file = records / "validation-00000-of-00001.tfrecord"
        (counted,) = counts(records, "validation")
        assert len(counted.made_from) == 64
        assert counted == (
            ShardCounts(
                file=file.name,
                channel="validation",
                records=5,
                bytes=file.stat().st_size,
                rejected=1,
                by_class={"cat": 3, "dog": 2},
                made_from=counted.made_from,
            )
        )

    def test_are_the_same_bytes_each_time_whatever_the_threads(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 40)
        rows.insert(3, put(tmp_path / "objects", "broken.png", b"no picture"))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        made = []
        for cores, concurrency in ((1, 1), (4, 32)):
            parameters = small(concurrency=concurrency)
            ran = run_component(preprocess, parameters, tmp_path / f"task{cores}", shards=shards, cores=cores)
            made.append(contents(ran.outputs["records"], ran.outputs["rejects"]))
        assert made[0] == made[1]


class TestDatasetOfAnEarlierTask:
    def test_is_read_where_it_is_now_and_named_as_it_was_listed(self, tmp_path: Path) -> None:
        objects = pictures(tmp_path / "mounted", 6)
        expected = run_component(
            preprocess,
            small(),
            tmp_path / "direct",
            shards=make_shards(tmp_path / "listed", {"train-00000-of-00001": objects}),
        )
        shards = in_a_dataset(tmp_path / "in", objects)
        ran = run_component(preprocess, small(), tmp_path / "task", shards=shards, dataset=tmp_path / "mounted")
        images, labels = load_arrays(ran.outputs["records"], "train")
        np.testing.assert_array_equal(images, load_arrays(expected.outputs["records"], "train")[0])
        assert labels.tolist() == [0, 1, 0, 1, 0, 1]
        record = next(iter(read_images(ran.outputs["records"] / "train-00000-of-00001.tfrecord")))
        assert record.uri == "s3://store/run/dataset/000 ä#.png"

    def test_is_needed(self, tmp_path: Path) -> None:
        shards = in_a_dataset(tmp_path / "in", pictures(tmp_path / "mounted", 2))
        with pytest.raises(ConfigError, match="preprocess needs the same input `dataset` as manifest"):
            run_component(preprocess, small(), tmp_path / "task", shards=shards)

    def test_is_the_one_that_was_listed(self, tmp_path: Path) -> None:
        shards = in_a_dataset(tmp_path / "in", pictures(tmp_path / "mounted", 2))
        (tmp_path / "other").mkdir()
        with pytest.raises(DataError, match=r"s3://store/run/dataset/000 ä#\.png: missing"):
            run_component(
                preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards, dataset=tmp_path / "other"
            )


def in_a_dataset(folder: Path, objects: Sequence[Listed]) -> Path:
    """Shards of objects that a dataset with a URI holds."""
    names = [unquote(item.uri.rpartition("/")[2]) for item in objects]
    named = [item._replace(uri=f"s3://store/run/dataset/{name}") for item, name in zip(objects, names, strict=True)]
    shards = make_shards(folder, {"train-00000-of-00001": named})
    file = shards / "shards" / "train-00000-of-00001.parquet"
    paths = polars.Series("dataset_path", [item.uri.rpartition("/")[2] for item in objects])
    polars.read_parquet(file).with_columns(paths).write_parquet(file)
    return shards


class TestShares:
    def test_divide_the_shards_and_agree_on_the_schema(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 5)
        names = [f"train-{index:05d}-of-00003" for index in range(3)] + [
            "test-00000-of-00001",
            "validation-00000-of-00001",
        ]
        shards = make_shards(tmp_path / "in", {name: [row] for name, row in zip(names, rows, strict=True)})
        whole = run_component(preprocess, small(), tmp_path / "whole", shards=shards).outputs
        merged: dict[str, bytes] = {}
        for index in range(2):
            share = Share(index=index, count=2)
            outputs = run_component(preprocess, small(), tmp_path / f"share{index}", share=share, shards=shards).outputs
            made = contents(outputs["records"], outputs["rejects"])
            assert set(merged) & set(made) == ({"schema.json"} if index else set())
            assert merged.get("schema.json", made["schema.json"]) == made["schema.json"]
            merged |= made
        assert merged == contents(whole["records"], whole["rejects"])

    def test_beyond_the_shards_are_empty(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": pictures(tmp_path / "objects", 1)})
        ran = run_component(preprocess, small(), tmp_path / "task", share=Share(index=3, count=4), shards=shards)
        assert list(contents(ran.outputs["records"], ran.outputs["rejects"])) == ["schema.json"]

    def test_need_shard_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no shard files"):
            run_component(preprocess, small(), tmp_path / "task", shards=make_shards(tmp_path / "in", {}))

    def test_need_a_plan_that_names_them(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path / "in", {"test-00000-of-00001": pictures(tmp_path / "objects", 2)})
        file = shards / "shards" / "test-00000-of-00001.parquet"
        file.rename(file.with_name("test-00000-of-00002.parquet"))
        with pytest.raises(DataError, match=r"plan.json does not name: \['test-00000-of-00002.parquet'\]"):
            run_component(preprocess, small(), tmp_path / "task", shards=shards)

    def test_need_as_many_objects_as_the_plan_says(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path / "in", {"test-00000-of-00001": pictures(tmp_path / "objects", 2)})
        file = shards / "shards" / "test-00000-of-00001.parquet"
        polars.read_parquet(file).head(1).write_parquet(file)
        with pytest.raises(DataError, match=r"has 1 objects, plan.json says 2; run shard again"):
            run_component(preprocess, small(), tmp_path / "task", shards=shards)
