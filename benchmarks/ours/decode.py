"""Decodes photographs and nothing else: what libjpeg-turbo needs for all of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import simplejpeg

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `photographs`."""
    paths = sorted(Path(given["photographs"]).rglob("*.jpg"))
    return lambda: sum(simplejpeg.decode_jpeg(path.read_bytes()).size > 0 for path in paths)


if __name__ == "__main__":
    main(prepare)
