"""Reads picture records with the package tfrecord."""

from __future__ import annotations

import io
from typing import Any

import tfrecord
from PIL import Image

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `folder`, `files` and `shape`: of JPEG pictures."""
    described = {"image": "byte", "label": "int", "uri": "byte"}
    height, width, _ = given["shape"]

    def work() -> int:
        found = 0
        for name in given["files"]:
            for record in tfrecord.tfrecord_loader(f"{given['folder']}/{name}", None, described):
                picture = Image.open(io.BytesIO(bytes(record["image"])))
                found += picture.size == (width, height) and record["label"][0] >= 0
        return found

    return work


if __name__ == "__main__":
    main(prepare)
