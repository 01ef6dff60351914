"""Record files of any sizes, whose pictures tell which record they are by the place of one bright pixel."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import ImageRecords
from millrace.testing import write_records

CLASSES = ("east", "north", "west")
SIDE = 10


def picture(number: int) -> NDArray[np.uint8]:
    pixels = np.zeros((SIDE, SIDE, 1), np.uint8)
    pixels.flat[number] = 255
    return pixels


def numbers(images: Any) -> list[int]:
    """Which records these pictures [N, H, W, C] are."""
    return [int(image.argmax()) for image in np.reshape(images, (len(images), SIDE * SIDE))]


def write_shards(folder: Path, train: Sequence[int], validation: Sequence[int] = (4, 5)) -> Path:
    """A Records artifact with files of that many records; each channel's records count from 0."""
    schema = ImageRecords(height=SIDE, width=SIDE, channels=1, encoding="raw", resize="stretch", classes=CLASSES)
    return write_records(folder, schema, {"train": _files(train), "validation": _files(validation)})


def give(records: Path, folder: Path, *patterns: str) -> Path:
    """Copy some of the files, as a host may be given them."""
    folder.mkdir(parents=True)
    for pattern in patterns:
        for file in records.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    return folder


def _files(sizes: Sequence[int]) -> list[list[ImageRecord]]:
    ends = [0, *accumulate(sizes)]
    return [
        [ImageRecord(picture(number).tobytes(), number % 3, f"file:///{number}") for number in range(first, end)]
        for first, end in pairwise(ends)
    ]
