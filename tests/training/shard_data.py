"""Record files of any sizes, whose pictures tell which record they are by the place of one bright pixel."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ImageRecords, ShardCounts

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
    folder.mkdir(parents=True)
    schema = ImageRecords(height=SIDE, width=SIDE, channels=1, encoding="raw", resize="stretch", classes=CLASSES)
    (folder / "schema.json").write_text(schema.model_dump_json())
    channels: dict[Channel, Sequence[int]] = {"train": train, "validation": validation}
    for channel, sizes in channels.items():
        first = 0
        for index, size in enumerate(sizes):
            _write(folder, channel, f"{channel}-{index:05d}-of-{len(sizes):05d}", range(first, first + size))
            first += size
    return folder


def give(records: Path, folder: Path, *patterns: str) -> Path:
    """Copy some of the files, as a host may be given them."""
    folder.mkdir(parents=True)
    for pattern in patterns:
        for file in records.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    return folder


def _write(folder: Path, channel: Channel, name: str, some: range) -> None:
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for number in some:
            writer.write(pack(ImageRecord(picture(number).tobytes(), number % 3, f"file:///{number}")))
    counts = ShardCounts(
        file=f"{name}.tfrecord",
        channel=channel,
        records=len(some),
        bytes=writer.bytes,
        by_class={kind: sum(number % 3 == label for number in some) for label, kind in enumerate(CLASSES)},
    )
    (folder / f"{name}.json").write_text(counts.model_dump_json())
