"""Any picture becomes pixels of the right shape, or is rejected for one of a few reasons."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from millrace.runtime.images import ImageRejected, RejectReason, decode_image, encode_image
from millrace.runtime.schemas import ImageRecords
from tests.pictures import saved

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def schema(
    height: int = 20,
    width: int = 20,
    channels: Literal[1, 3] = 3,
    resize: Literal["crop", "pad", "stretch"] = "stretch",
    encoding: Literal["jpeg", "png", "raw"] = "png",
) -> ImageRecords:
    return ImageRecords(
        height=height, width=width, channels=channels, encoding=encoding, resize=resize, classes=("a", "b")
    )


def quarters(size: int = 40) -> Image.Image:
    """Red and green above, blue and white below."""
    picture = Image.new("RGB", (size, size), RED)
    half = size // 2
    for colour, corner in ((GREEN, (half, 0)), (BLUE, (0, half)), (WHITE, (half, half))):
        picture.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return picture


def corners(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """Colours near the corners in reading order, rounded to full or none."""
    height, width = pixels.shape[:2]
    points = [(y, x) for y in (height // 5, height * 4 // 5) for x in (width // 5, width * 4 // 5)]
    return [tuple(255 if value > 127 else 0 for value in pixels[point].tolist()) for point in points]


QUARTERS = [RED, GREEN, BLUE, WHITE]


class TestForms:
    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "MPO"])
    def test_colours_come_back(self, encoding: str) -> None:
        assert corners(decode_image(saved(quarters(), encoding), schema())) == QUARTERS

    @pytest.mark.parametrize("encoding", ["PNG", "BMP"])
    def test_pixels_of_the_right_size_are_not_touched(self, encoding: str) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        data = saved(Image.fromarray(noise), encoding)
        for resize in ("crop", "pad", "stretch"):
            np.testing.assert_array_equal(decode_image(data, schema(20, 30, resize=resize)), noise)

    def test_cmyk_jpeg(self) -> None:
        data = saved(quarters().convert("CMYK"), "JPEG", quality=95)
        with Image.open(io.BytesIO(data)) as stored:
            assert stored.mode == "CMYK"
        for resize in ("crop", "pad", "stretch"):
            assert corners(decode_image(data, schema(resize=resize))) == QUARTERS

    def test_16_bit_grey_is_scaled_not_clipped(self) -> None:
        ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        pixels = decode_image(saved(Image.fromarray(ramp), "PNG"), schema(16, 16, channels=1))
        np.testing.assert_array_equal(pixels.ravel(), np.arange(256))

    def test_16_bit_colour_is_scaled_not_clipped(self) -> None:
        rows = b"".join(b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0040) * 4 for _ in range(4))
        pixels = decode_image(png(4, 4, depth=16, colour=2, rows=rows), schema(4, 4))
        assert pixels[0, 0].tolist() == [255, 128, 0]

    def test_one_bit(self) -> None:
        picture = Image.fromarray(np.asarray(quarters().convert("L")) > 200)
        assert picture.mode == "1"
        assert corners(decode_image(saved(picture, "PNG"), schema())) == [BLACK, BLACK, BLACK, WHITE]

    def test_grey_becomes_rgb_and_rgb_grey(self) -> None:
        grey = Image.new("L", (9, 9), 77)
        assert np.unique(decode_image(saved(grey, "PNG"), schema(4, 4))).tolist() == [77]
        red = decode_image(saved(Image.new("RGB", (9, 9), RED), "PNG"), schema(4, 4, channels=1))
        assert red.shape == (4, 4, 1)
        assert np.unique(red).tolist() == [76]  # ITU-R 601 luma of pure red

    def test_jpeg_decoded_to_grey_is_its_luma(self) -> None:
        data = saved(Image.new("RGB", (900, 900), RED), "JPEG")
        np.testing.assert_allclose(decode_image(data, schema(8, 8, channels=1)), 76, atol=2)

    def test_animations_give_their_first_frame(self) -> None:
        frames = [Image.new("RGB", (30, 30), colour) for colour in (GREEN, RED, BLUE)]
        for encoding in ("GIF", "WEBP", "PNG"):
            data = saved(frames[0], encoding, save_all=True, append_images=frames[1:], lossless=True)
            assert corners(decode_image(data, schema())) == [GREEN] * 4, encoding


class TestTransparency:
    """What shows through is white."""

    @pytest.mark.parametrize("encoding", ["PNG", "WEBP"])
    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    def test_alpha(self, encoding: str, resize: Literal["crop", "pad", "stretch"]) -> None:
        picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        picture.paste((255, 0, 0, 255), (0, 0, 20, 40))
        data = saved(picture, encoding, lossless=True)
        assert corners(decode_image(data, schema(resize=resize))) == [RED, WHITE, RED, WHITE]

    def test_no_dark_fringe_where_transparent_black_meets_colour(self) -> None:
        picture = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
        picture.paste((255, 255, 255, 255), (0, 0, 133, 400))
        assert decode_image(saved(picture, "PNG"), schema(7, 7)).min() >= 250

    def test_half_transparent_grey(self) -> None:
        data = saved(Image.new("LA", (9, 9), (0, 128)), "PNG")
        np.testing.assert_allclose(decode_image(data, schema(9, 9, channels=1)), 127, atol=1)

    def test_palette_with_a_transparent_index(self) -> None:
        picture = Image.new("P", (40, 40), 0)
        picture.putpalette([*BLACK, *BLUE])
        picture.paste(1, (0, 0, 20, 40))
        for encoding in ("GIF", "PNG"):
            data = saved(picture, encoding, transparency=0)
            assert corners(decode_image(data, schema())) == [BLUE, WHITE, BLUE, WHITE], encoding

    def test_a_transparent_colour(self) -> None:
        picture = Image.new("RGB", (40, 40), BLACK)
        picture.paste(GREEN, (0, 0, 20, 40))
        data = saved(picture, "PNG", transparency=BLACK)
        assert corners(decode_image(data, schema())) == [GREEN, WHITE, GREEN, WHITE]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    def test_every_exif_orientation_is_turned_upright(
        self, orientation: int, resize: Literal["crop", "pad", "stretch"]
    ) -> None:
        upright = quarters(400).resize((600, 400))
        stored = upright
        inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose
        if orientation > 1:
            stored = upright.transpose(Image.Transpose(inverse[orientation]))
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(stored, "JPEG", exif=exif)
        pixels = decode_image(data, schema(40, 60, resize=resize))
        assert pixels.shape == (40, 60, 3)
        assert corners(pixels) == QUARTERS

    @pytest.mark.parametrize("encoding", ["PNG", "WEBP"])
    def test_other_forms_have_exif_too(self, encoding: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        stored = quarters().resize((60, 40)).transpose(Image.Transpose.ROTATE_270)
        data = saved(stored, encoding, exif=exif, lossless=True)
        assert corners(decode_image(data, schema(40, 60))) == QUARTERS

    def test_broken_exif_does_no_harm(self) -> None:
        for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"):
            assert corners(decode_image(saved(quarters(), "JPEG", exif=exif), schema())) == QUARTERS

    def test_an_orientation_that_does_not_exist_is_ignored(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 77
        assert corners(decode_image(saved(quarters(), "JPEG", exif=exif), schema())) == QUARTERS


class TestResize:
    def test_crop_keeps_the_middle(self) -> None:
        picture = Image.new("RGB", (300, 100), RED)
        picture.paste(GREEN, (100, 0, 200, 100))
        for encoding in ("PNG", "JPEG"):
            pixels = decode_image(saved(picture, encoding), schema(resize="crop"))
            assert corners(pixels) == [GREEN] * 4, encoding

    def test_pad_keeps_all_within_black(self) -> None:
        pixels = decode_image(saved(Image.new("RGB", (300, 100), RED), "PNG"), schema(30, 30, resize="pad"))
        assert [tuple(row) for row in pixels[:, 15].tolist()] == [BLACK] * 10 + [RED] * 10 + [BLACK] * 10

    def test_stretch_fills(self) -> None:
        picture = quarters().resize((300, 50))
        assert corners(decode_image(saved(picture, "PNG"), schema(resize="stretch"))) == QUARTERS

    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (7, 5)])
    @pytest.mark.parametrize("encoding", ["PNG", "JPEG"])
    def test_extreme_shapes(
        self, resize: Literal["crop", "pad", "stretch"], size: tuple[int, int], encoding: str
    ) -> None:
        data = saved(Image.new("RGB", size, WHITE), encoding)
        assert decode_image(data, schema(13, 17, resize=resize)).max() == 255

    def test_fine_detail_is_averaged_not_sampled(self) -> None:
        stripes = np.tile(np.array([0, 255], np.uint8), (800, 400))
        for encoding in ("PNG", "JPEG"):
            pixels = decode_image(saved(Image.fromarray(stripes), encoding), schema(20, 20, channels=1))
            np.testing.assert_allclose(pixels, 127, atol=10)

    def test_the_shortcut_for_large_jpegs_is_close_to_the_long_way(self) -> None:
        large = Image.new("RGB", (4000, 3000), WHITE)
        draw = ImageDraw.Draw(large)
        for step in range(40):
            draw.ellipse((step * 90, step * 60, step * 90 + 700, step * 60 + 500), (step * 6, 255 - step * 6, 90))
        data = saved(large, "JPEG", quality=90)
        pixels = decode_image(data, schema(224, 224, resize="stretch"))
        with Image.open(io.BytesIO(data)) as picture:
            slowly = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC), float)
        assert np.abs(pixels - slowly).mean() < 1.0


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG file with a header that may claim anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def reason(data: bytes, *, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(ImageRejected) as rejected:
        decode_image(data, schema(), max_pixels=max_pixels)
    assert rejected.value.detail
    assert rejected.value.reason in get_args(RejectReason)
    return rejected.value.reason


class TestRejected:
    def test_no_bytes(self) -> None:
        assert reason(b"") == "empty"

    @pytest.mark.parametrize(
        "data", [b"just text, called photo.jpg", b"<!DOCTYPE html>", b"\0" * 100, b"\xff\xd8\xff", b"GIF89a", b"BM"]
    )
    def test_something_else(self, data: bytes) -> None:
        assert reason(data) == "not_an_image"

    def test_forms_that_are_not_asked_for(self) -> None:
        for encoding in ("TIFF", "PPM", "ICO"):
            assert reason(saved(quarters(), encoding)) == "not_an_image"

    @pytest.mark.parametrize("side", [20_000, 100_000, 2**31 - 1])
    def test_a_header_that_claims_too_much(self, side: int) -> None:
        assert reason(png(side, side)) == "too_large"
        told = rf"^too_large: {side * side} pixels are more than max_pixels, 1000000$"
        with pytest.raises(ImageRejected, match=told):
            decode_image(png(side, side), schema(), max_pixels=1_000_000)

    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_more_pixels_than_allowed(self, encoding: str) -> None:
        data = saved(quarters(), encoding)
        assert reason(data, max_pixels=1599) == "too_large"
        assert decode_image(data, schema(), max_pixels=1600).shape == (20, 20, 3)

    def test_too_many_pixels_are_refused_before_decoding(self) -> None:
        """The rows of this picture are broken, which only decoding would notice."""
        assert reason(png(1000, 1000, rows=b"broken"), max_pixels=999_999) == "too_large"

    @pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    @pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
    def test_cut_off(self, encoding: str, part: float) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (90, 90, 3)).astype(np.uint8)
        data = saved(Image.fromarray(noise), encoding)
        assert reason(data[: int(len(data) * part)]) in ("truncated", "corrupt", "not_an_image")

    def test_cut_off_jpeg_is_called_truncated(self) -> None:
        data = saved(quarters(400), "JPEG")
        assert reason(data[:-200]) == "truncated"


def test_bytes_after_the_picture_do_no_harm() -> None:
    for encoding in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = saved(quarters(), encoding) + b"trailing garbage" * 100
        assert corners(decode_image(data, schema())) == QUARTERS, encoding


def seeds() -> list[bytes]:
    small = quarters(24)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = small.convert("RGBA")
    return [
        saved(small, "JPEG", exif=exif),
        saved(small.convert("CMYK"), "JPEG"),
        saved(small, "JPEG", progressive=True),
        saved(small, "MPO", save_all=True, append_images=[small]),
        saved(small, "PNG", exif=exif),
        saved(small.convert("P"), "PNG", transparency=1),
        saved(Image.fromarray(np.full((24, 24), 4000, np.uint16)), "PNG"),
        saved(alpha, "PNG"),
        saved(small, "PNG", save_all=True, append_images=[alpha.convert("RGB").rotate(90)]),
        saved(alpha, "WEBP", lossless=True, exif=exif),
        saved(small, "WEBP", save_all=True, append_images=[small.rotate(90)]),
        saved(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
        saved(small.convert("P"), "GIF", transparency=1),
        saved(small, "BMP"),
        saved(small.convert("P"), "BMP"),
    ]


SEEDS = seeds()


@st.composite
def broken_pictures(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        change = draw(st.sampled_from(["set", "delete", "insert", "cut"]))
        if change == "set":
            data[position : position + 4] = draw(st.binary(min_size=1, max_size=4))
        elif change == "delete":
            del data[position : position + draw(st.integers(1, 20))]
        elif change == "insert":
            data[position:position] = draw(st.binary(max_size=20))
        elif draw(st.booleans()):
            del data[position:]
    return bytes(data)


def verdict(data: bytes, form: ImageRecords) -> str:
    """`decoded`, or why not."""
    try:
        pixels = decode_image(data, form, max_pixels=100_000)
    except ImageRejected as rejected:
        return rejected.reason
    assert pixels.shape == (form.height, form.width, form.channels)
    assert pixels.dtype == np.dtype(np.uint8)
    return "decoded"


@settings(max_examples=1500, deadline=None)
@given(data=broken_pictures(), resize=st.sampled_from(["crop", "pad", "stretch"]), channels=st.sampled_from([1, 3]))
def test_whatever_the_bytes_are(data: bytes, resize: Any, channels: Any) -> None:
    assert verdict(data, schema(12, 16, channels, resize)) in ("decoded", *get_args(RejectReason))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), head=st.sampled_from([b"", *(seed[:12] for seed in SEEDS)]))
def test_whatever_follows_the_first_bytes(data: bytes, head: bytes) -> None:
    assert verdict(head + data, schema()) in ("decoded", *get_args(RejectReason))


def test_threads_give_the_same_pixels() -> None:
    expected = [decode_image(seed, schema()).tobytes() for seed in SEEDS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            pixels = pool.map(lambda seed: decode_image(seed, schema()).tobytes(), SEEDS)
            assert list(pixels) == expected


class TestEncode:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("encoding", ["png", "jpeg"])
    def test_can_be_decoded_again(self, channels: Literal[1, 3], encoding: Literal["png", "jpeg"]) -> None:
        form = schema(20, 20, channels, encoding=encoding)
        pixels = decode_image(saved(quarters(), "PNG"), form)
        again = decode_image(encode_image(pixels, form), form)
        apart = np.abs(again.astype(int) - pixels)
        if encoding == "png":
            assert apart.max() == 0
        else:  # colours have half the resolution: where red meets green, they bleed
            assert apart.mean() < 3
            assert np.median(apart) <= 1

    def test_raw_is_the_pixels(self) -> None:
        form = schema(4, 5, encoding="raw")
        pixels = decode_image(saved(quarters(), "PNG"), form)
        assert encode_image(pixels, form) == pixels.tobytes()

    def test_quality_buys_size(self) -> None:
        form = schema(100, 100, encoding="jpeg")
        pixels = decode_image(saved(quarters(), "PNG"), form)
        assert len(encode_image(pixels, form, quality=30)) < len(encode_image(pixels, form, quality=99))
