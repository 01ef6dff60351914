"""Resizes photographs with the resizer of img2dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version

from img2dataset.resizer import Resizer

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs` and `side`."""
    paths = sorted(Path(given["photographs"]).rglob("*.jpg"))
    resizer = Resizer(given["side"], "center_crop", resize_only_if_bigger=False, encode_quality=95)

    def one(path: Path) -> int:
        with path.open("rb") as stream:
            encoded, *_, error = resizer(stream)
        if error:
            raise RuntimeError(f"{path}: {error}")
        return len(encoded)

    one(paths[0])
    return lambda: sum(one(path) > 0 for path in paths)


if __name__ == "__main__":
    main(prepare)
