"""Records of photographs, as `preprocess` makes them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import ImageRecords
from millrace.testing import write_records

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
    paths = sorted(photographs.rglob("*.jpg"))
    classes = tuple(sorted({path.parent.name for path in paths}))
    schema = ImageRecords(height=side, width=side, channels=3, encoding=encoding, resize="crop", classes=classes)
    train = [_records(paths[part::_FILES], schema) for part in range(_FILES)]
    write_records(folder, schema, {"train": train, "validation": [_records(paths[:_VALIDATION], schema)]})


def _records(paths: Sequence[Path], schema: ImageRecords) -> Iterator[ImageRecord]:
    for path in paths:
        yield ImageRecord(_encoded(path, schema), schema.classes.index(path.parent.name), path.as_uri())


def _encoded(path: Path, schema: ImageRecords) -> bytes:
    with Image.open(path) as opened:
        picture = ImageOps.fit(opened.convert("RGB"), (schema.width, schema.height), Image.Resampling.BICUBIC)
    if schema.encoding == "raw":
        return picture.tobytes()
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
