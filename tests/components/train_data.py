"""Small record files for tests of training and tuning: squares, each class in a place of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import ImageRecords
from millrace.testing import write_records
from tests.pictures import png
from tests.records import Sizes, numbered

CLASSES = ("east", "north", "west")


def picture(label: int, number: int, channels: int = 1) -> NDArray[np.uint8]:
    """A noisy 8 x 8 picture with a bright patch that tells its class."""
    pixels = np.random.default_rng([label, number]).integers(0, 120, (8, 8, channels), np.uint8)
    top, left = ((3, 5), (0, 3), (3, 0))[label]
    pixels[top : top + 3, left : left + 3] += np.uint8(120)
    return pixels


def write_picture_records(
    folder: Path,
    *,
    train: Sizes = (30, 20, 14),
    validation: Sizes = (6, 6, 6),
    test: Sizes = (0, 0, 0),
    channels: Literal[1, 3] = 1,
) -> Path:
    """A Records artifact with that many pictures of each class, in two shards a channel."""
    schema = ImageRecords(height=8, width=8, channels=channels, encoding="png", resize="stretch", classes=CLASSES)
    return write_records(
        folder,
        schema,
        {
            channel: [
                [
                    ImageRecord(png(picture(label, number, channels)), label, f"file:///{label}/{number}.png")
                    for label, number in file
                ]
                for file in files
            ]
            for channel, files in numbered(train, validation, test).items()
        },
    )
