"""The short way from JPEG bytes to pixels and back: libjpeg-turbo, and a resampler that uses the processor's vectors.

Pixels have four bytes here, the last of which means nothing (RGBX): both libraries are fastest with these.
"""

from __future__ import annotations

import re
import threading
from math import ceil
from typing import cast

import numpy as np
import simplejpeg
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import ExifTags, Image

from millrace.runtime.fitting import Fit, fit
from millrace.runtime.schemas import ImageRecords

__all__ = ["decode_jpeg", "encode_jpeg"]

_START = b"\xff\xd8\xff"
_SCAN = 0xDA
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_COLOURS = ("Gray", "YCbCr", "RGB")
_SHRINKS = (8, 4, 2)  # of the eighths that libjpeg can decode to, those that it is fast at
_GAP = 1.5  # decode to this much more than is needed: what is smaller differs visibly in fine patterns
_OPTIONS = ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom), use_alpha=False)  # Pillow's bicubic
_AROUND = 0
_LARGEST_ROOM = 16 * 2**20


class _Desk(threading.local):
    """What a thread keeps from picture to picture: fresh memory from the system takes longer than resizing."""

    def __init__(self) -> None:
        self.resizer = Resizer()  # must not be entered twice
        self.room: NDArray[np.uint8] = np.empty(0, np.uint8)


_desk = _Desk()


def decode_jpeg(data: bytes, schema: ImageRecords, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG picture, turn it upright and bring it to the schema's size.

    Args:
        data: The encoded picture.
        schema: Size, channels and resize policy.
        max_pixels: Pictures with more are not decoded.

    Returns:
        uint8 [height, width, 4] for colours, [height, width, 1] for greys. None for anything out of the ordinary:
        other forms and colour spaces, too many pixels, whatever libjpeg-turbo as much as warns of.
    """
    if not data.startswith(_START):
        return None
    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(rows), int(columns)
        orientation = _orientation(data)
        if colours not in _COLOURS or width * height > max_pixels:
            return None
        wanted = (schema.height, schema.width) if orientation >= 5 else (schema.width, schema.height)
        shrink = _shrink(fit((width, height), wanted, schema.resize))
        size = ceil(width / shrink), ceil(height / shrink)
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            "GRAY" if schema.channels == 1 else "RGBX",
            fastupsample=True,
            min_width=size[0],
            min_height=size[1],
            min_factor=shrink,
            buffer=None if size == wanted else _room(4 * size[0] * size[1]),
        )
    except (ValueError, IndexError):
        return None
    if pixels.shape[1::-1] != size:
        return None
    return _upright(_resized(pixels, wanted, schema), orientation)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode pixels.

    Args:
        pixels: uint8 [height, width, channels], contiguous: 1 channel for greys, 3 for RGB, 4 for RGBX.
        quality: 1 to 100. Colours have half the resolution, as in nearly all JPEG files.
    """
    colours = {1: "GRAY", 3: "RGB", 4: "RGBX"}[pixels.shape[2]]
    subsampling = "Gray" if colours == "GRAY" else "420"
    return cast(bytes, simplejpeg.encode_jpeg(pixels, quality, colours, subsampling))


def _room(size: int) -> NDArray[np.uint8] | None:
    """Bytes for the pixels of one picture, which the next one overwrites; none for large ones."""
    if size > _LARGEST_ROOM:
        return None
    if size > _desk.room.size:
        _desk.room = np.empty(size, np.uint8)
    return _desk.room


def _shrink(fitted: Fit) -> int:
    """By how much less than the whole picture may be decoded."""
    room = 1 / (max(fitted.scale) * _GAP)
    return next((factor for factor in _SHRINKS if factor <= room), 1)


def _resized(pixels: NDArray[np.uint8], wanted: tuple[int, int], schema: ImageRecords) -> NDArray[np.uint8]:
    """The picture in memory of its own, or as it is when nothing is to be done."""
    height, width, channels = pixels.shape
    if (width, height) == wanted:
        return pixels
    fitted = fit((width, height), wanted, schema.resize)
    resized = _fractional(pixels, fitted) if _is_fractional(fitted) else _vectorised(_cut(pixels, fitted), fitted.inner)
    if fitted.inner == wanted:
        return resized
    padded = np.full((wanted[1], wanted[0], channels), _AROUND, np.uint8)
    left, top = (wanted[0] - fitted.inner[0]) // 2, (wanted[1] - fitted.inner[1]) // 2
    padded[top : top + fitted.inner[1], left : left + fitted.inner[0]] = resized
    return padded


def _is_fractional(fitted: Fit) -> bool:
    """Whether the part that is kept begins between two pixels, and a pixel of it covers more than one of the result."""
    return fitted.scale[0] > 1 and any(edge != int(edge) for edge in fitted.box)


def _fractional(pixels: NDArray[np.uint8], fitted: Fit) -> NDArray[np.uint8]:
    """Exactly the part that is kept, by Pillow, which is slow at it."""
    height, width, channels = pixels.shape
    mode = "L" if channels == 1 else "CMYK"  # any four bytes are resized alike under this name
    picture = Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
    resized = np.asarray(picture.resize(fitted.inner, Image.Resampling.BICUBIC, box=fitted.box))
    return resized.reshape(fitted.inner[1], fitted.inner[0], channels)


def _cut(pixels: NDArray[np.uint8], fitted: Fit) -> NDArray[np.uint8]:
    """The part that is kept, in whole pixels: its middle stays, its edges move by half a pixel at most."""
    height, width, _ = pixels.shape
    left, top = (ceil(edge - 0.5) for edge in fitted.box[:2])
    return pixels[top : height - top, left : width - left]


def _vectorised(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    # its crop_box reads beyond the picture at times, and resize_pil relies on how Pillow keeps pictures in memory
    height, width, channels = pixels.shape
    form = PixelType.U8 if channels == 1 else PixelType.U8x4
    target = ImageData(*size, form)
    _desk.resizer.resize(ImageData(width, height, form, pixels.tobytes()), target, _OPTIONS)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size[1], size[0], channels)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo what EXIF says of how the picture lies."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(data: bytes) -> int:
    """From the EXIF data, or else from the XMP data, as Pillow reads them.

    Raises:
        ValueError: When the segments before the picture are not as they should be.
    """
    exif, xmp = b"", b""
    for segment in _segments(data):
        if segment.startswith(_EXIF):
            exif = exif + segment[len(_EXIF) :] if exif else segment
        elif segment.startswith(_XMP):
            xmp = segment[len(_XMP) :]
    if not exif and not xmp:
        return 1
    try:
        tags = Image.Exif()
        if exif:
            tags.load(exif)
        if ExifTags.Base.Orientation in tags:
            return _known(tags[ExifTags.Base.Orientation])
    except Exception:  # broken EXIF data come in all forms, and the pixels may still be good
        return 1
    found = _IN_XMP.search(xmp)
    return _known(int(found[1])) if found else 1


def _known(orientation: object) -> int:
    """1, upright, for what EXIF does not know."""
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _segments(data: bytes) -> list[bytes]:
    """Contents of the APP1 segments before the picture."""
    found: list[bytes] = []
    at = 2
    while data[at + 1] != _SCAN:
        if data[at] != 0xFF:
            raise ValueError(f"no marker at byte {at}")
        if data[at + 1] == 0xFF:  # markers may be preceded by any number of these
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _APP1:
            found.append(data[at + 4 : at + 2 + length])
        if length < 2:
            raise ValueError(f"a segment of {length} bytes at byte {at}")
        at += 2 + length
    return found
