"""From the bytes of any picture to the pixels that a model sees; the same for records and for serving."""

from __future__ import annotations

import io
import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from millrace.errors import DataError
from millrace.runtime.fitting import fit
from millrace.runtime.jpegs import decode_jpeg, encode_jpeg
from millrace.runtime.schemas import ImageRecords

__all__ = ["MAX_PIXELS", "ImageRejected", "RejectReason", "convert_image", "decode_image", "encode_image"]

RejectReason = Literal["empty", "not_an_image", "too_large", "truncated", "corrupt"]

MAX_PIXELS = 89_478_485
"""Pillow's own limit: above it a picture may be a decompression bomb."""

_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
    )
    if plugin.format
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCING_GAP = 2.0  # Pillow's own choice for thumbnails: shrink cheaply to twice the size, then well
_BEHIND = 255  # pictures with transparency are mostly made for white pages
_AROUND = 0  # black, as tf.image.resize_with_pad does


class ImageRejected(DataError):  # noqa: N818 - a verdict that callers count, more than a failure
    """A picture that can't be used.

    Attributes:
        reason: One of a closed set, to count by.
        detail: What is wrong with this one.
    """

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectReason = reason
        self.detail = detail


def decode_image(data: bytes, schema: ImageRecords, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, GIF or BMP picture, turn it upright and bring it to the schema's size.

    Of animations the first frame is taken. Transparent parts become white. 16-bit greys are scaled to
    8 bits. `crop` scales so that the picture covers the size and keeps its middle, `pad` scales so that
    it fits and adds black edges, `stretch` changes the aspect ratio. Bytes after the picture and broken
    EXIF data do no harm.

    Args:
        data: The encoded picture.
        schema: Size, channels and resize policy.
        max_pixels: Pictures with more are refused by their header, before they are decoded.

    Returns:
        uint8 [height, width, channels].

    Raises:
        ImageRejected: Whatever the bytes are, nothing else is raised.
    """
    return np.ascontiguousarray(_decode(data, schema, max_pixels)[..., : schema.channels])


def encode_image(pixels: NDArray[np.uint8], schema: ImageRecords, *, quality: int = 95) -> bytes:
    """Encode pixels in the form that the schema names.

    Args:
        pixels: uint8 [height, width, channels].
        schema: The encoding; raw is the pixels themselves.
        quality: Of JPEG, 1 to 100; its colours have half the resolution.
    """
    if schema.encoding == "jpeg":
        return encode_jpeg(np.ascontiguousarray(pixels), quality)
    if schema.encoding == "raw":
        return pixels.tobytes()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if schema.channels == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def convert_image(data: bytes, schema: ImageRecords, *, max_pixels: int = MAX_PIXELS, quality: int = 95) -> bytes:
    """`decode_image` and `encode_image` in one, with fewer copies.

    Raises:
        ImageRejected: Whatever the bytes are, nothing else is raised.
    """
    pixels = _decode(data, schema, max_pixels)
    if schema.encoding == "jpeg":
        return encode_jpeg(pixels, quality)
    return encode_image(np.ascontiguousarray(pixels[..., : schema.channels]), schema)


def _decode(data: bytes, schema: ImageRecords, max_pixels: int) -> NDArray[np.uint8]:
    """As `decode_image`, but colours may come with a fourth channel that means nothing."""
    if not data:
        raise ImageRejected("empty", "it has no bytes")
    try:
        pixels = decode_jpeg(data, schema, max_pixels)
        return _decode_any(data, schema, max_pixels) if pixels is None else pixels
    except ImageRejected:
        raise
    except MemoryError as error:
        raise ImageRejected("too_large", "there is not enough memory to decode it") from error
    except Exception as error:  # decoders raise what they like on bytes that are no picture
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise ImageRejected("truncated" if truncated else "corrupt", _tell(error)) from error


def _decode_any(data: bytes, schema: ImageRecords, max_pixels: int) -> NDArray[np.uint8]:
    """Decode what is no ordinary JPEG picture."""
    with _open(data, max_pixels) as picture:
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            picture.draft("L" if schema.channels == 1 else "RGB", _draft_size(picture, schema))
        picture.load()
        resized = _resize(_plain_mode(picture), _stored_size(picture, schema), schema)
        turn = _TURNS.get(_orientation(picture))
        upright = resized if turn is None else resized.transpose(turn)
        pixels = np.asarray(_flatten(upright, schema), np.uint8)
        return pixels.reshape(schema.height, schema.width, schema.channels)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        counted = re.search(r"\((\d+) pixels\)", str(error))
        pixels = counted[1] if counted else "its"
        raise ImageRejected("too_large", f"{pixels} pixels are more than max_pixels, {max_pixels}") from error
    except UnidentifiedImageError as error:
        raise ImageRejected(
            "not_an_image", f"it is no JPEG, PNG, WebP, GIF or BMP picture: it starts with {data[:16]!r}"
        ) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageRejected("too_large", f"{width} x {height} pixels are more than max_pixels, {max_pixels}")
    return picture


def _orientation(picture: Image.Image) -> int:
    """From the EXIF data; asking a PNG file for them decodes it, so load it first."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF data come in all forms, and the pixels may still be good
        return 1
    return value if value in _TURNS else 1


def _stored_size(picture: Image.Image, schema: ImageRecords) -> tuple[int, int]:
    """Width and height that the picture needs before it is turned upright."""
    turned = _orientation(picture) >= 5
    return (schema.height, schema.width) if turned else (schema.width, schema.height)


def _draft_size(picture: Image.Image, schema: ImageRecords) -> tuple[int, int]:
    across, down = fit(picture.size, _stored_size(picture, schema), schema.resize).scale
    wanted = (picture.width * across * _REDUCING_GAP, picture.height * down * _REDUCING_GAP)
    return max(1, round(wanted[0])), max(1, round(wanted[1]))


def _plain_mode(picture: Image.Image) -> Image.Image:
    """The picture in a mode that can be resized: L, LA, RGB, RGBA or CMYK, 8 bits each."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.uint32).clip(0, 0xFFFF)
        return Image.fromarray(((values * 0xFF + 0x7FFF) // 0xFFFF).astype(np.uint8))
    grey = picture.mode in ("1", "L", "LA")
    if picture.has_transparency_data:
        return picture.convert("LA" if grey else "RGBA")
    if picture.mode == "CMYK":
        return picture
    return picture.convert("L" if grey else "RGB")


def _resize(picture: Image.Image, size: tuple[int, int], schema: ImageRecords) -> Image.Image:
    if picture.size == size:
        return picture
    box, inner, _ = fit(picture.size, size, schema.resize)
    fitted = picture.resize(inner, Image.Resampling.BICUBIC, box=box, reducing_gap=_REDUCING_GAP)
    if inner == size:
        return fitted
    fitted = _opaque(fitted)  # alpha is dropped here: what is around is black, what shows through is white
    padded = Image.new(fitted.mode, size, _AROUND)
    padded.paste(fitted, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return padded


def _opaque(picture: Image.Image) -> Image.Image:
    """Without alpha, and in a mode in which zero is black."""
    if picture.mode == "CMYK":
        return picture.convert("RGB")
    if picture.mode not in ("LA", "RGBA"):
        return picture
    colours = picture.convert(picture.mode.removesuffix("A"))
    page = Image.new(colours.mode, picture.size, (_BEHIND,) * len(colours.getbands()))
    page.paste(colours, mask=picture.getchannel("A"))
    return page


def _flatten(picture: Image.Image, schema: ImageRecords) -> Image.Image:
    return _opaque(picture).convert("L" if schema.channels == 1 else "RGB")


def _tell(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
