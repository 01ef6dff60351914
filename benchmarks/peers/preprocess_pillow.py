"""Resizes photographs with Pillow, as one would write it down."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs` and `side`."""
    paths = sorted(Path(given["photographs"]).rglob("*.jpg"))
    size = (given["side"], given["side"])

    def one(path: Path) -> int:
        with Image.open(path) as picture:
            fitted = ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        fitted.save(stream, "JPEG", quality=95)
        return len(stream.getvalue())

    one(paths[0])
    return lambda: sum(one(path) > 0 for path in paths)


if __name__ == "__main__":
    main(prepare)
