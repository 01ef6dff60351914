"""A killed preprocess goes on where it was, and its memory does not grow."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from millrace.components.preprocess.spec import ImageData, preprocess
from millrace.errors import DataError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.task import read_result
from millrace.testing import run_component
from tests.components.preprocess.material import (
    Listed,
    contents,
    make_shards,
    pictures,
    put,
    small,
    worker,
)
from tests.pictures import noise, saved


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
        checkpoints = directory / "checkpoints"
        first = worker(directory, shards)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and first.poll() is None:
            if checkpoints.exists() and len(list(checkpoints.glob("train-*"))) >= finished:
                break
            time.sleep(0.001)
        first.kill()
        first.communicate()
        assert not (directory / "result.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in checkpoints.glob("train-*")}
        second = worker(directory, shards)
        second.communicate()
        assert second.returncode == 0
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


def test_memory_does_not_grow_with_the_number_of_objects(tmp_path: Path) -> None:
    """Decoded, each of these pictures takes 24 MB."""
    row = put(tmp_path / "objects", "large.png", saved(Image.new("RGB", (3000, 2000), (9, 9, 9)), "PNG"))
    few, many = (peak_memory(tmp_path / str(number), [row] * number) for number in (4, 40))
    assert many < few + 50e6


def peak_memory(directory: Path, rows: list[Listed]) -> int:
    """Of a worker, in bytes; by the kernel's count for its own pages, which leaves out its parent's."""
    shards = make_shards(directory / "in", {"train-00000-of-00001": rows})
    started = worker(directory, shards, "print(Path('/proc/self/status').read_text())")
    status, _ = started.communicate()
    assert read_result(directory) is not None
    (line,) = (line for line in status.decode().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
