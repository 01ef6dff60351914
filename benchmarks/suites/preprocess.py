"""Records of photographs on one core, beside what people resize photographs with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from benchmarks.picture_shards import write_picture_shards
from benchmarks.plan import Case, Contender, Ratio, Setting

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Preprocess"
ABOUT = (
    "JPEG photographs of about 400x533 become JPEG pictures of 224x224 (the middle, quality 95), on one core. "
    "Ours is the whole component: reading, SHA-256, decoding, resizing, encoding, record files with checksums, counts. "
    "The resizer of img2dataset and Pillow read, resize and encode, and write nothing; libjpeg-turbo alone decodes all "
    "pixels and throws them away."
)

_SIDE = 224
_COUNT, _QUICK_COUNT = 3000, 40
_SHARDS = 4


def cases(setting: Setting) -> Iterator[Case]:
    """Pictures a second on one core."""
    if setting.wants("one-core"):
        photographs = setting.photographs(setting.size(_COUNT, _QUICK_COUNT))
        paths = sorted(photographs.rglob("*.jpg"))
        places = [(path.as_uri(), path.parent.name) for path in paths]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        yield _one_core(photographs, write_picture_shards(setting.scratch / "shards", places, _SHARDS, contents))


def _one_core(photographs: Path, shards: Path) -> Case:
    theirs: dict[str, JsonValue] = {"photographs": str(photographs), "side": _SIDE}
    return Case(
        name="one-core",
        title="Photographs to records on one core",
        unit="pictures",
        contenders=(
            Contender(
                about="the preprocess component, default parameters",
                script="ours/preprocess.py",
                arguments={"shards": str(shards), "side": _SIDE, "cores": 1, "concurrency": 16},
                packages=("simplejpeg", "cykooz-resizer", "pillow"),
            ),
            Contender(
                name="libjpeg-turbo alone",
                about="simplejpeg.decode_jpeg of all pixels",
                script="ours/decode.py",
                arguments=theirs,
                packages=("simplejpeg",),
            ),
            _peer("img2dataset", "img2dataset.resizer.Resizer, center_crop, area", theirs, ("opencv-python-headless",)),
            _peer("pillow", "ImageOps.fit, bicubic; save", theirs),
            _peer("tensorflow", "tf.data, tf.image.resize bicubic with antialias; TFRecordWriter", theirs),
        ),
        ratios=(
            Ratio(beside="img2dataset", target=2.0),
            Ratio(beside="pillow", target=2.0),
            Ratio(beside="tensorflow"),
            Ratio(beside="libjpeg-turbo alone", target=0.6),
            Ratio(beside="img2dataset", metric="peak_bytes"),
        ),
    )


def _peer(name: str, about: str, arguments: dict[str, JsonValue], more: tuple[str, ...] = ()) -> Contender:
    return Contender(
        name=name,
        about=about,
        script=f"peers/preprocess_{name}.py",
        environment=name,
        arguments=arguments,
        packages=(name, *more),
    )
