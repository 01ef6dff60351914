"""Pictures to train on: noise, of the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import Channel, ImageRecords
from millrace.testing import write_records

__all__ = ["write_noise"]

_CLASSES = tuple(f"class-{number}" for number in range(10))
_SIZES: dict[Channel, int] = {"train": 2048, "validation": 32}


def write_noise(folder: Path, height: int, width: int, channels: int) -> None:
    """Write a Records artifact with a file for each channel.

    Args:
        folder: Made by this.
        height: Of each picture, in pixels.
        width: The same.
        channels: 1 or 3.
    """
    schema = ImageRecords.model_validate(
        {
            "height": height, "width": width, "channels": channels, "encoding": "raw", "resize": "stretch",
            "classes": _CLASSES,
        }
    )  # fmt: skip
    generator = np.random.default_rng(0)
    write_records(folder, schema, {channel: [_noise(generator, size, schema)] for channel, size in _SIZES.items()})


def _noise(generator: np.random.Generator, size: int, schema: ImageRecords) -> Iterator[ImageRecord]:
    for number in range(size):
        pixels = generator.integers(0, 256, schema.shape, np.uint8)
        yield ImageRecord(pixels.tobytes(), number % len(_CLASSES), f"file:///{number}")
