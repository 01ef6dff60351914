"""Small record files for tests of training and tuning: squares, each class in a place of its own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ImageRecords, ShardCounts

CLASSES = ("east", "north", "west")


def picture(label: int, number: int, channels: int = 1) -> NDArray[np.uint8]:
    """A noisy 8 x 8 picture with a bright patch that tells its class."""
    pixels = np.random.default_rng([label, number]).integers(0, 120, (8, 8, channels), np.uint8)
    top, left = ((3, 5), (0, 3), (3, 0))[label]
    pixels[top : top + 3, left : left + 3] += np.uint8(120)
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def write_records(
    folder: Path,
    *,
    train: tuple[int, int, int] = (30, 20, 14),
    validation: tuple[int, int, int] = (6, 6, 6),
    test: tuple[int, int, int] = (0, 0, 0),
    channels: int = 1,
) -> Path:
    """A Records artifact with that many pictures of each class, in two shards a channel."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = ImageRecords(
        height=8, width=8, channels=3 if channels == 3 else 1, encoding="png", resize="stretch", classes=CLASSES
    )
    (folder / "schema.json").write_text(schema.model_dump_json())
    sizes: dict[Channel, tuple[int, int, int]] = {"train": train, "validation": validation, "test": test}
    first = 0
    for channel, of_class in sizes.items():
        items = [(label, first + number) for label, size in enumerate(of_class) for number in range(size)]
        first += max(of_class)
        for shard in range(2 if items else 0):
            _write_shard(folder, channel, shard, items[shard::2], channels)
    return folder


def _write_shard(folder: Path, channel: Channel, shard: int, items: list[tuple[int, int]], channels: int) -> None:
    name = f"{channel}-{shard:05d}-of-00002"
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for label, number in items:
            writer.write(
                pack(ImageRecord(png(picture(label, number, channels)), label, f"file:///{label}/{number}.png"))
            )
    counts = ShardCounts(
        file=f"{name}.tfrecord",
        channel=channel,
        records=len(items),
        bytes=writer.bytes,
        by_class={kind: sum(label == index for label, _ in items) for index, kind in enumerate(CLASSES)},
    )
    (folder / f"{name}.json").write_text(counts.model_dump_json())
