"""Preprocess turns each shard's objects into a record file, and says which it could not use."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars
import pytest
from PIL import Image

from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.errors import DataError, UserError
from millrace.runtime.context import Share
from millrace.runtime.datasets import load_arrays
from millrace.runtime.images import decode_image
from millrace.runtime.records import counts, read_images
from millrace.runtime.schemas import (
    CHANNELS,
    ImageRecords,
    PlannedShard,
    ShardCounts,
    ShardPlan,
    read_json_model,
    read_records_schema,
)
from millrace.runtime.storage import read
from millrace.testing import Ran, run_component
from tests.conftest import Bucket
from tests.faults import SLOW_DOWN, Fault, Refusal, faulty_proxy

CLASSES = ("cat", "dog")


class Listed(NamedTuple):
    """A row of a shard's table."""

    uri: str
    label: int
    content: str | None


def saved(picture: Image.Image, encoding: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, encoding, **options)
    return stream.getvalue()


def noise(seed: int, width: int = 30, height: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def put(folder: Path, name: str, data: bytes, label: int = 0) -> Listed:
    """Store an object and list it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return Listed((folder / name).as_uri(), label, hashlib.sha256(data).hexdigest())


def make_shards(folder: Path, shards: Mapping[str, Sequence[Listed]]) -> Path:
    """A Shards artifact."""
    (folder / "shards").mkdir(parents=True)
    for name, rows in shards.items():
        table = {
            "uri": [row.uri for row in rows],
            "prefix": ["" for _ in rows],
            "key": [row.uri.rpartition("/")[2] for row in rows],
            "class_label": [CLASSES[row.label] for row in rows],
            "label": [row.label for row in rows],
            "channel": [name.partition("-")[0] for _ in rows],
            "content": [row.content for row in rows],
        }
        polars.DataFrame(table, schema_overrides={"content": polars.String, "label": polars.Int64}).write_parquet(
            folder / "shards" / f"{name}.parquet"
        )
    plan: dict[Any, Any] = {channel: [] for channel in CHANNELS}
    for name, rows in shards.items():
        planned = PlannedShard(file=f"{name}.parquet", objects=len(rows), bytes=0)
        plan[name.partition("-")[0]].append(planned)
    (folder / "plan.json").write_text(ShardPlan(classes=CLASSES, shards=plan).model_dump_json())
    return folder


def pictures(folder: Path, number: int) -> list[Listed]:
    return [
        put(folder, f"{index:03d} ä#.png", saved(noise(index), "PNG"), label=index % len(CLASSES))
        for index in range(number)
    ]


def small(**changes: Any) -> PreprocessParameters:
    data = ImageData(height=10, width=12, encoding="png", resize="crop")
    return PreprocessParameters(**{"data": data, **changes})


def contents(*folders: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for folder in folders for file in sorted(folder.iterdir())}


def rejected(ran: Ran) -> dict[str, str]:
    """Reasons by object name."""
    table = polars.read_parquet(ran.outputs["rejects"] / "*.parquet")
    assert table.columns == ["uri", "reason", "detail"]
    assert all(table["detail"].str.len_chars() > 0)
    return {uri.rpartition("/")[2]: reason for uri, reason in zip(table["uri"], table["reason"], strict=True)}


class TestRecords:
    def test_hold_each_picture_as_serving_would_see_it(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 7)
        shards = make_shards(
            tmp_path / "in",
            {"train-00000-of-00002": rows[:4], "train-00001-of-00002": rows[4:6], "test-00000-of-00001": rows[6:]},
        )
        records = run_component(preprocess, small(), tmp_path / "task", shards=shards).outputs["records"]
        schema = read_records_schema(records)
        assert schema == ImageRecords(
            height=10, width=12, channels=3, encoding="png", resize="crop", classes=("cat", "dog")
        )
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
        assert counts(records, "validation") == (
            ShardCounts(
                file=file.name,
                channel="validation",
                records=5,
                bytes=file.stat().st_size,
                rejected=1,
                by_class={"cat": 3, "dog": 2},
            ),
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


def claiming_png() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"")
    data = b"IDAT" + body
    first = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + first + struct.pack(">I", len(body)) + data + struct.pack(">I", zlib.crc32(data))


class TestRejects:
    def test_every_kind_of_broken_object(self, tmp_path: Path) -> None:
        folder = tmp_path / "objects"
        jpeg = saved(noise(1, 400, 300), "JPEG")
        gone = put(folder, "gone.png", b"x")
        (folder / "gone.png").unlink()
        changed = put(folder, "changed.png", saved(noise(1), "PNG"))
        (folder / "changed.png").write_bytes(saved(noise(2), "PNG"))
        rows = [
            put(folder, "good.jpg", jpeg),
            put(folder, "cut.jpg", jpeg[:-5000]),
            put(folder, "text.jpg", b"this is a text file\n" * 100),
            put(folder, "empty.jpg", b""),
            put(folder, "bomb.png", claiming_png()),
            put(folder, "large.png", saved(Image.new("L", (2000, 1001)), "PNG")),
            gone,
            changed,
        ]
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        data = ImageData(height=8, width=8, max_pixels=2_000_000)
        ran = run_component(
            preprocess, PreprocessParameters(data=data, max_error_rate=1), tmp_path / "task", shards=shards
        )
        assert rejected(ran) == {
            "cut.jpg": "truncated",
            "text.jpg": "not_an_image",
            "empty.jpg": "empty",
            "bomb.png": "too_large",
            "large.png": "too_large",
            "gone.png": "missing",
            "changed.png": "changed",
        }
        (record,) = read_images(ran.outputs["records"] / "train-00000-of-00001.tfrecord")
        assert record.uri.endswith("/good.jpg")

    def test_an_object_that_was_not_hashed_when_listed_is_taken_as_it_is(self, tmp_path: Path) -> None:
        row = put(tmp_path / "objects", "a.png", saved(noise(1), "PNG"))._replace(content=None)
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": [row]})
        assert rejected(run_component(preprocess, small(), tmp_path / "task", shards=shards)) == {}

    def test_odd_pictures_are_no_rejects(self, tmp_path: Path) -> None:
        folder = tmp_path / "objects"
        picture = noise(1)
        exif = Image.Exif()
        exif[0x0112] = 6
        rows = [
            put(folder, "cmyk.jpg", saved(picture.convert("CMYK"), "JPEG")),
            put(folder, "16bit.png", saved(Image.fromarray(np.full((9, 9), 5000, np.uint16)), "PNG")),
            put(folder, "palette.gif", saved(picture.convert("P"), "GIF", transparency=3)),
            put(folder, "alpha.webp", saved(picture.convert("RGBA"), "WEBP")),
            put(folder, "turned.JPEG", saved(picture, "JPEG", exif=exif)),
            put(folder, "wrong_suffix.jpg", saved(picture, "BMP")),
            put(folder, "large.jpg", saved(Image.new("RGB", (6000, 4000)), "JPEG")),
        ]
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        ran = run_component(preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards)
        assert rejected(ran) == {}
        assert load_arrays(ran.outputs["records"], "train")[0].shape == (7, 10, 12, 3)

    def test_a_shard_of_rejects_gives_an_empty_record_file(self, tmp_path: Path) -> None:
        rows = [put(tmp_path / "objects", f"{index}.png", b"broken") for index in range(3)]
        shards = make_shards(
            tmp_path / "in",
            {"train-00000-of-00002": rows, "train-00001-of-00002": pictures(tmp_path / "objects", 2)},
        )
        ran = run_component(preprocess, small(max_error_rate=0.6), tmp_path / "task", shards=shards)
        first, second = counts(ran.outputs["records"], "train")
        assert (first.records, first.bytes, first.rejected, first.by_class) == (0, 0, 3, {})
        assert (second.records, second.rejected) == (2, 0)


class TestStore:
    """A real S3 server."""

    def stored(self, s3: Bucket, rows: Sequence[Listed]) -> list[Listed]:
        moved = []
        for row in rows:
            name = unquote(row.uri.rpartition("/")[2])
            moved.append(row._replace(uri=s3.put(f"pictures/{name}", read(row.uri))))
        return moved

    def test_gives_the_records_that_a_folder_gives(self, tmp_path: Path, s3: Bucket) -> None:
        rows = pictures(tmp_path / "objects", 5)
        name = "train-00000-of-00001"
        made = []
        for place, listed in (("folder", rows), ("bucket", self.stored(s3, rows))):
            shards = make_shards(tmp_path / place / "in", {name: listed})
            ran = run_component(preprocess, small(), tmp_path / place, shards=shards)
            made.append(list(read_images(ran.outputs["records"] / f"{name}.tfrecord")))
            assert [record.uri for record in made[-1]] == [row.uri for row in listed]
        assert [(record.image, record.label) for record in made[0]] == [
            (record.image, record.label) for record in made[1]
        ]

    def test_may_throttle_and_drop_connections(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 6))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        faults: list[Fault | None] = [SLOW_DOWN, None, "drop", None, "break_off", None]

        def choose(number: int, path: str) -> Fault | None:
            return faults[number] if number < len(faults) else None

        with faulty_proxy(s3.endpoint, choose) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            ran = run_component(preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards)
        assert len(proxy.injected) == 3
        assert counts(ran.outputs["records"], "train")[0].records == 6

    def test_that_refuses_access_ends_the_task(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 3))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        with faulty_proxy(s3.endpoint, lambda number, path: Refusal(403, "AccessDenied")) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(UserError):
                run_component(preprocess, small(max_error_rate=1), tmp_path / "task", shards=shards)

    def test_that_lost_an_object_rejects_it(self, tmp_path: Path, s3: Bucket) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 3))
        s3.client.delete_object(Bucket=s3.name, Key=rows[1].uri.removeprefix(s3.uri()))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        ran = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "task", shards=shards)
        assert list(rejected(ran).values()) == ["missing"]


class TestErrorRate:
    """It is a part of all objects of the share, rounded up to whole objects."""

    def shards(self, tmp_path: Path, broken: int, good: int) -> Path:
        rows = [put(tmp_path / "objects", f"broken{index}.png", b"broken") for index in range(broken)]
        rows += pictures(tmp_path / "objects", good)
        half = len(rows) // 2
        return make_shards(tmp_path / "in", {"train-00000-of-00002": rows[:half], "train-00001-of-00002": rows[half:]})

    @pytest.mark.parametrize(
        ("rate", "broken", "good"), [(0.01, 1, 9), (0.1, 2, 18), (0.5, 2, 2), (0, 0, 4), (1, 4, 0)]
    )
    def test_is_kept(self, tmp_path: Path, rate: float, broken: int, good: int) -> None:
        shards = self.shards(tmp_path, broken, good)
        ran = run_component(preprocess, small(max_error_rate=rate), tmp_path / "task", shards=shards)
        assert len(rejected(ran)) == broken

    @pytest.mark.parametrize(("rate", "broken", "good"), [(0.01, 2, 8), (0.1, 3, 17), (0, 1, 9)])
    def test_is_exceeded(self, tmp_path: Path, rate: float, broken: int, good: int) -> None:
        shards = self.shards(tmp_path, broken, good)
        with pytest.raises(DataError) as failed:
            run_component(preprocess, small(max_error_rate=rate), tmp_path / "task", shards=shards)
        message = str(failed.value)
        assert f"{broken} of the first {broken} objects were rejected ({broken} not_an_image)" in message
        assert f"max_error_rate={rate:g} allows {broken - 1} of this worker's {broken + good}" in message
        assert "broken0.png: not_an_image: it is no JPEG" in message

    def test_names_each_reject_in_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        shards = self.shards(tmp_path, 3, 3)
        run_component(preprocess, small(max_error_rate=1), tmp_path / "task", shards=shards)
        for index in range(3):
            assert f"broken{index}.png: not_an_image" in caplog.text


def request(tmp_path: Path, directory: Path, shards: Path) -> None:
    """A task directory as a runner makes it."""
    from millrace.runtime.task import GivenArtifact, TaskRequest

    TaskRequest(
        name="preprocess",
        component=preprocess.spec.entry,
        parameters=small().model_dump(mode="json"),
        inputs={"shards": (GivenArtifact(path=shards),)},
        cores=1,
    ).write(directory)


RUN = (
    "import sys; from pathlib import Path; from millrace.runtime.execute import execute; "
    "sys.exit(execute(Path(sys.argv[1])))"
)


class TestInterrupted:
    def shards(self, tmp_path: Path) -> Path:
        rows = [
            put(tmp_path / "objects", f"{index}.png", saved(noise(index, 300, 300), "PNG"), index % 2)
            for index in range(60)
        ]
        parts = {f"train-{index:05d}-of-00006": rows[index::6] for index in range(6)}
        return make_shards(tmp_path / "in", parts)

    @pytest.mark.parametrize("finished", [0, 1, 4])
    def test_killed_and_run_again_gives_the_same_bytes(self, tmp_path: Path, finished: int) -> None:
        shards = self.shards(tmp_path)
        expected = run_component(preprocess, small(), tmp_path / "whole", shards=shards).outputs
        directory = tmp_path / "task"
        request(tmp_path, directory, shards)
        checkpoints = directory / "checkpoints"
        worker = subprocess.Popen([sys.executable, "-c", RUN, str(directory)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and worker.poll() is None:
            if checkpoints.exists() and len(list(checkpoints.glob("train-*"))) >= finished:
                break
            time.sleep(0.001)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert not (directory / "result.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in checkpoints.glob("train-*")}
        subprocess.run([sys.executable, "-c", RUN, str(directory)], check=True, stdout=subprocess.DEVNULL)
        for port, folder in expected.items():
            assert contents(directory / "outputs" / port) == contents(folder)
        assert len(kept) >= finished
        assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items()), "a whole shard was remade"

    def test_kept_shards_count_towards_the_error_rate(self, tmp_path: Path) -> None:
        rows = pictures(tmp_path / "objects", 4)
        broken = put(tmp_path / "objects", "broken.png", b"broken")
        names = ("train-00000-of-00002", "train-00001-of-00002")
        shards = make_shards(tmp_path / "in", dict(zip(names, ([*rows[:2], broken], [*rows[2:], broken]), strict=True)))
        for _ in range(2):
            with pytest.raises(DataError, match=r"2 of the first 6 objects were rejected \(2 not_an_image\)"):
                run_component(preprocess, small(), tmp_path / "task", shards=shards)

    def test_what_was_kept_for_other_parameters_is_not_used(self, tmp_path: Path) -> None:
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": pictures(tmp_path / "objects", 2)})
        run_component(preprocess, small(), tmp_path / "task", shards=shards)
        other = small(data=ImageData(height=5, width=5, encoding="png"))
        ran = run_component(preprocess, other, tmp_path / "task", shards=shards)
        assert load_arrays(ran.outputs["records"], "train")[0].shape == (2, 5, 5, 3)


def test_memory_is_bounded_by_what_is_in_flight_not_by_the_number_of_objects(tmp_path: Path) -> None:
    """Decoded, 60 of these pictures are 2 GB; a worker may hold two at a time."""
    data = saved(Image.new("RGB", (4000, 3000), (9, 9, 9)), "PNG")
    row = put(tmp_path / "objects", "large.png", data)
    shards = make_shards(tmp_path / "in", {"train-00000-of-00001": [row] * 60})
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peak = max(peak, pages * os.sysconf("SC_PAGE_SIZE"))
            time.sleep(0.005)

    pages_before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_component(preprocess, small(), tmp_path / "task", shards=shards, cores=2)
    finally:
        done.set()
        watcher.join()
    assert peak - pages_before < 300e6


def test_the_counts_file_is_what_the_schema_says(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "in", {"test-00000-of-00001": pictures(tmp_path / "objects", 2)})
    records = run_component(preprocess, small(), tmp_path / "task", shards=shards).outputs["records"]
    made = read_json_model(records / "test-00000-of-00001.json", ShardCounts)
    assert (made.records, made.channel) == (2, "test")
