"""What preprocess can't use is set aside, and too much of it is a failure."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.errors import DataError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.records import counts, read_images
from millrace.testing import run_component
from tests.components.preprocess.material import (
    make_shards,
    pictures,
    put,
    rejected,
    small,
)
from tests.pictures import noise, saved


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

    @pytest.mark.parametrize(("rate", "broken", "good"), [(0.01, 2, 8), (0.1, 3, 17), (0.1, 4, 26), (0, 1, 9)])
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
