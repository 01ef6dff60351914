"""What goes wrong in long runs: kills at any moment, broken objects, full disks, odd names. Everything adds up."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import polars
import pytest

from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.runtime.context import Progress, Share
from millrace.runtime.records import ImageRecord, counts, read_images
from millrace.runtime.task import GivenArtifact, TaskRequest, read_result
from millrace.testing import run_component
from tests.components.preprocess.material import (
    Listed,
    contents,
    make_shards,
    pictures,
    put,
    rejected,
    small,
    worker,
)
from tests.conftest import Bucket
from tests.pictures import noise, saved

SHARDS = 6


def dealt(rows: list[Listed]) -> dict[str, list[Listed]]:
    return {f"train-{index:05d}-of-{SHARDS:05d}": rows[index::SHARDS] for index in range(SHARDS)}


class TestKills:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_of_several_workers_lose_nothing_and_double_nothing(self, tmp_path: Path, seed: int) -> None:
        objects = tmp_path / "objects"
        rows = [put(objects, f"{index}.png", saved(noise(index, 250, 250), "PNG"), index % 2) for index in range(60)]
        rows[7] = put(objects, "broken.png", b"broken")
        shards = make_shards(tmp_path / "in", dealt(rows))
        expected = run_component(preprocess, small(max_error_rate=0.1), tmp_path / "whole", shards=shards).outputs
        moments = random.Random(seed)
        made: dict[str, bytes] = {}
        for index in range(2):
            directory, share = tmp_path / f"share{index}", Share(index=index, count=2)
            for _ in range(3):
                started = worker(directory, shards, share=share, parameters=small(max_error_rate=0.1))
                self.kill_somewhere(started, directory, moments)
            last = worker(directory, shards, share=share, parameters=small(max_error_rate=0.1))
            last.communicate()
            assert last.returncode == 0
            outputs = contents(directory / "outputs" / "records", directory / "outputs" / "rejects")
            assert set(made) & set(outputs) <= {"schema.json"}
            made |= outputs
        assert made == contents(expected["records"], expected["rejects"])
        records = [
            record.uri for name in made if name.endswith(".tfrecord") for record in self.read(made, name, tmp_path)
        ]
        assert sorted(records) == sorted(row.uri for row in rows if not row.uri.endswith("broken.png"))

    def kill_somewhere(self, started: subprocess.Popen[bytes], directory: Path, moments: random.Random) -> None:
        """At a moment between the first and the last record; if it is done before, so be it."""
        while started.poll() is None and not list((directory / "checkpoints").glob("*train-*")):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.15))
        started.kill()
        started.communicate()

    def read(self, made: dict[str, bytes], name: str, tmp_path: Path) -> list[ImageRecord]:
        (tmp_path / "one.tfrecord").write_bytes(made[name])
        return list(read_images(tmp_path / "one.tfrecord"))


def test_a_tenth_of_broken_objects_is_set_aside_and_adds_up(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    moments = random.Random(0)
    rows, broken = [], set()
    for index in range(60):
        data = saved(noise(index, 60, 40), "JPEG" if index % 2 else "PNG")
        if index % 10 == 3:
            data = [data[: len(data) // 2], b"", moments.randbytes(500), data[:3] + bytes(len(data))][index // 10 % 4]
            broken.add(f"{index}.png")
        rows.append(put(objects, f"{index}.png", data, index % 2))
    shards = make_shards(tmp_path / "in", dealt(rows))
    ran = run_component(preprocess, small(max_error_rate=0.1), tmp_path / "task", shards=shards)
    told = counts(ran.outputs["records"], "train")
    assert set(rejected(ran)) == broken
    assert (sum(one.records for one in told), sum(one.rejected for one in told)) == (54, 6)
    assert sum(sum(one.by_class.values()) for one in told) == 54
    found = [record.uri for one in told for record in read_images(ran.outputs["records"] / one.file)]
    assert sorted(found) == sorted(row.uri for row in rows if row.uri.rpartition("/")[2] not in broken)


class TestFullDisk:
    """A limit of the kernel's on the size of files fails as a full disk does: in the middle of a record file."""

    PROGRAM = """
import resource, signal, sys
from pathlib import Path
from millrace.runtime.execute import execute
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sys.exit(execute(Path(sys.argv[1])))
"""

    def test_leaves_nothing_half_written_and_goes_on_afterwards(self, tmp_path: Path) -> None:
        few, many = pictures(tmp_path / "few", 2), pictures(tmp_path / "many", 12)
        shards = make_shards(tmp_path / "in", {"train-00000-of-00002": few, "train-00001-of-00002": many})
        form = PreprocessParameters(data=ImageData(height=150, width=150, encoding="raw"))
        directory = tmp_path / "task"
        TaskRequest(
            name="preprocess",
            component=preprocess.spec.entry,
            parameters=form.model_dump(mode="json"),
            inputs={"shards": (GivenArtifact(path=shards),)},
        ).write(directory)
        failed = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, str(directory)], capture_output=True, text=True, check=False
        )
        assert failed.returncode == 1
        assert "File too large" in failed.stderr
        assert read_result(directory) is None
        (kept,) = (directory / "checkpoints").iterdir()
        assert kept.name.startswith("train-00000-of-00002-")
        ran = run_component(preprocess, form, directory, shards=shards)
        assert ran.metrics == {"shards_made": 1, "shards_kept": 1}
        assert [one.records for one in counts(ran.outputs["records"], "train")] == [2, 12]
        told = Progress.model_validate_json((directory / "progress.json").read_bytes())
        assert (told.done, told.total) == (12, 12), "the pace of what was there says nothing about the rest"


NAMES = [
    "two words.png",
    'it\'s "quoted".png',
    "grün 猫 😀.png",
    "100% %41 %2F.png",
    "a+b&c=d?e#f.png",
    "#row=3.png",
    "..png",
    " lead and trail .png",
]


class TestNames:
    def test_of_files(self, tmp_path: Path) -> None:
        rows = [put(tmp_path / "objects", name, saved(noise(1), "PNG")) for name in [*NAMES, "back\\slash.png"]]
        assert self.recorded(tmp_path, rows) == [row.uri for row in rows]

    def test_of_objects(self, tmp_path: Path, s3: Bucket) -> None:
        data = saved(noise(1), "PNG")
        rows = [Listed(s3.put(f"deep/{name}", data), 0, None) for name in NAMES]
        assert self.recorded(tmp_path, rows) == [row.uri for row in rows]

    def recorded(self, tmp_path: Path, rows: list[Listed]) -> list[str]:
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        ran = run_component(preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards)
        return [record.uri for record in read_images(ran.outputs["records"] / "train-00000-of-00001.tfrecord")]

    def test_of_objects_that_begin_with_a_slash(self, tmp_path: Path, s3: Bucket) -> None:
        rows = [Listed(s3.put(key, saved(noise(1), "PNG")), 0, None) for key in ("good.png", "/slash.png", "a//b.png")]
        assert self.recorded(tmp_path, rows) == [row.uri for row in rows]


def test_an_object_that_was_overwritten_after_listing_is_told_by_its_etag(tmp_path: Path, s3: Bucket) -> None:
    data = saved(noise(1), "PNG")
    uri = s3.put("changed.png", data)
    etag = s3.client.head_object(Bucket=s3.name, Key="changed.png")["ETag"]
    shards = make_shards(tmp_path / "in", {"train-00000-of-00001": [Listed(uri, 0, None)] * 2})
    file = shards / "shards" / "train-00000-of-00001.parquet"
    table = polars.read_parquet(file)
    table.with_columns(etag=polars.lit(etag), size=polars.lit(len(data))).write_parquet(file)
    parameters = small(max_error_rate=1)
    before = run_component(preprocess, parameters, tmp_path / "before", shards=shards)
    assert rejected(before) == {}
    s3.put("changed.png", saved(noise(2), "PNG"))
    after = run_component(preprocess, parameters, tmp_path / "after", shards=shards)
    assert rejected(after) == {"changed.png": "changed"}
