"""Pictures to train on: noise, of the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ImageRecords, ShardCounts

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
    folder.mkdir(parents=True)
    schema = ImageRecords.model_validate(
        {
            "height": height, "width": width, "channels": channels, "encoding": "raw", "resize": "stretch",
            "classes": _CLASSES,
        }
    )  # fmt: skip
    (folder / "schema.json").write_text(schema.model_dump_json())
    generator = np.random.default_rng(0)
    for channel, size in _SIZES.items():
        name = f"{channel}-00000-of-00001"
        with RecordWriter(folder / f"{name}.tfrecord") as writer:
            for number in range(size):
                pixels = generator.integers(0, 256, (height, width, channels), np.uint8)
                writer.write(pack(ImageRecord(pixels.tobytes(), number % len(_CLASSES), f"file:///{number}")))
        counts = ShardCounts(
            file=f"{name}.tfrecord",
            channel=channel,
            records=size,
            bytes=writer.bytes,
            by_class={kind: len(range(label, size, len(_CLASSES))) for label, kind in enumerate(_CLASSES)},
        )
        (folder / f"{name}.json").write_text(counts.model_dump_json())
