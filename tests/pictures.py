"""Pictures for tests: as files' bytes, and as records."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from millrace.runtime.images import encode_image
from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import ImageRecords


def saved(picture: Image.Image, encoding: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    picture.save(stream, encoding, **options)
    return stream.getvalue()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W, 1 or 3] as a PNG file."""
    return saved(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def noise(seed: int, width: int = 30, height: int = 20) -> Image.Image:
    """Random colours."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def picture_records(
    images: Iterable[NDArray[np.uint8]], labels: Iterable[int], schema: ImageRecords
) -> Iterator[ImageRecord]:
    """Pictures [H, W, C] as records, called by their numbers."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield ImageRecord(encode_image(image, schema), int(label), f"file:///{number}.png")
