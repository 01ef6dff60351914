"""Photographs to measure with: copies of real ones, or pictures that are made and compress like photographs."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from millrace.errors import ConfigError

__all__ = ["copied", "generated"]

_ENDINGS = (".jpg", ".jpeg")
_CLASSES = 10
_DIFFERENT = 200
_WIDTH, _HEIGHT = 400, 533
_QUALITY = 90


def copied(source: Path, folder: Path, count: int) -> None:
    """Copy `count` of the JPEG files below `source` into folders by class, each as often as it takes.

    Raises:
        ConfigError: When there are none.
    """
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in _ENDINGS)
    if not found:
        raise ConfigError(f"{source} has no files that end with {' or '.join(_ENDINGS)}: --photographs FOLDER")
    for number, path in enumerate(itertools.islice(itertools.cycle(found), count)):
        target = folder / path.parent.name / f"{number:07}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def generated(folder: Path, count: int) -> None:
    """Make pictures of 400x533: smooth shades with edges and fine noise; a few hundred different ones, repeated."""
    generator = np.random.default_rng(0)
    made = [_jpeg(generator) for _ in range(min(count, _DIFFERENT))]
    for number in range(count):
        target = folder / f"class-{number % _CLASSES}" / f"{number:07}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(made[number % len(made)])


def _jpeg(generator: np.random.Generator) -> bytes:
    coarse = Image.fromarray(generator.integers(0, 256, (8, 6, 3), np.uint8))
    edges = Image.fromarray(generator.integers(0, 256, (40, 30, 3), np.uint8))
    size = (_WIDTH, _HEIGHT)
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
    sharp = np.asarray(edges.resize(size, Image.Resampling.NEAREST), np.float32)
    noise = generator.normal(0, 6, (_HEIGHT, _WIDTH, 3))
    pixels = np.clip(0.8 * smooth + 0.2 * sharp + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
