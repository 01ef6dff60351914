"""Records of photographs, as `preprocess` makes them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ImageRecords, ShardCounts

__all__ = ["write_picture_records"]

_FILES = 4
_VALIDATION = 32
_QUALITY = 95  # what preprocess does by itself


def write_picture_records(photographs: Path, folder: Path, side: int, encoding: Literal["jpeg", "raw"]) -> None:
    """Write a Records artifact of all photographs; a few of them are validation records as well.

    Args:
        photographs: JPEG files in a folder for each class.
        folder: Made by this.
        side: Height and width in pixels.
        encoding: Of the pictures.
    """
    folder.mkdir(parents=True)
    paths = sorted(photographs.rglob("*.jpg"))
    classes = tuple(sorted({path.parent.name for path in paths}))
    schema = ImageRecords(height=side, width=side, channels=3, encoding=encoding, resize="crop", classes=classes)
    (folder / "schema.json").write_text(schema.model_dump_json())
    for part in range(_FILES):
        _write(folder, "train", part, _FILES, paths[part::_FILES], schema)
    _write(folder, "validation", 0, 1, paths[:_VALIDATION], schema)


def _write(folder: Path, channel: Channel, part: int, parts: int, paths: Sequence[Path], schema: ImageRecords) -> None:
    name = f"{channel}-{part:05}-of-{parts:05}"
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for path in paths:
            label = schema.classes.index(path.parent.name)
            writer.write(pack(ImageRecord(_encoded(path, schema), label, path.as_uri())))
    counts = ShardCounts(
        file=f"{name}.tfrecord",
        channel=channel,
        records=len(paths),
        bytes=writer.bytes,
        by_class=dict(Counter(path.parent.name for path in paths)),
    )
    (folder / f"{name}.json").write_text(counts.model_dump_json())


def _encoded(path: Path, schema: ImageRecords) -> bytes:
    with Image.open(path) as opened:
        picture = ImageOps.fit(opened.convert("RGB"), (schema.width, schema.height), Image.Resampling.BICUBIC)
    if schema.encoding == "raw":
        return picture.tobytes()
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
