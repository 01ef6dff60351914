"""Reads picture records without TensorFlow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measure import Work, main
from millrace.runtime.records import read_images


def prepare(given: dict[str, Any]) -> Work:
    """Given `folder`, `files` and `shape`: of JPEG pictures."""
    height, width, _ = given["shape"]

    def work() -> int:
        found = 0
        for name in given["files"]:
            for record in read_images(Path(given["folder"]) / name):
                found += Image.open(io.BytesIO(record.image)).size == (width, height) and record.label >= 0
        return found

    return work


if __name__ == "__main__":
    main(prepare)
