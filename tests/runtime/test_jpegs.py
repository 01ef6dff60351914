"""The short way of JPEG pictures gives what Pillow gives, and leaves to it what is out of the ordinary."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from millrace.runtime.images import ImageRejected, convert_image, decode_image
from millrace.runtime.jpegs import decode_jpeg, encode_jpeg
from millrace.runtime.schemas import ImageRecords
from tests.pictures import saved

MANY = 10**8


def schema(height: int, width: int, channels: Literal[1, 3] = 3, **changes: Any) -> ImageRecords:
    given_: dict[str, Any] = {"encoding": "jpeg", "resize": "crop", "classes": ("a",), **changes}
    return ImageRecords(height=height, width=width, channels=channels, **given_)


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft shapes of many sizes with a little grain, as photographs have them."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 7, 19, 53):
        grid = random.normal(0, 60 / cells**0.5, (cells, cells, 3))
        layers = [
            Image.fromarray(grid[..., band].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            for band in range(3)
        ]
        total += np.stack([np.asarray(layer) for layer in layers], axis=2)
    total += random.normal(0, 3, total.shape)
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    return saved(picture, "JPEG", **options)


def likeness(one: Any, other: Any) -> float:
    """PSNR in dB."""
    error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def by_pillow(data: bytes, form: ImageRecords) -> Any:
    """The same picture by Pillow alone: what is decoded from it, written as PNG, takes the long way."""
    picture = Image.open(io.BytesIO(data))
    exif = picture.getexif()
    return decode_image(saved(picture, "PNG", exif=exif), form)


ONE = """
import sys
from millrace.runtime.jpegs import decode_jpeg
from millrace.runtime.schemas import ImageRecords
width, height = map(int, sys.argv[1:])
form = ImageRecords(height=height, width=width, channels=3, encoding="jpeg", resize="crop", classes=("a",))
sys.stdout.buffer.write(decode_jpeg(sys.stdin.buffer.read(), form, 10**8).tobytes())
"""

MANY_SIZES = """
import random, sys
import numpy as np
from millrace.runtime.jpegs import decode_jpeg, encode_jpeg
from millrace.runtime.schemas import ImageRecords
draw = random.Random(int(sys.argv[1]))
side = lambda: draw.randint(1, draw.choice([8, 64, 300]))
for _ in range(int(sys.argv[2])):
    channels = draw.choice([1, 3])
    grey = draw.random() < 0.2
    given = np.random.default_rng(0).integers(0, 256, (side(), side(), 1 if grey else 3), dtype=np.uint8)
    form = ImageRecords(height=side(), width=side(), channels=channels, encoding="jpeg",
                        resize=draw.choice(["crop", "crop", "pad", "stretch"]), classes=("a",))
    print(given.shape, form.shape, form.resize, flush=True)
    pixels = decode_jpeg(encode_jpeg(given, 90), form, 10**8)
    assert pixels.shape == (form.height, form.width, 4 if channels == 3 else 1)
"""


class TestDecode:
    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(("width", "height"), [(400, 533), (533, 400), (401, 299), (150, 149), (1600, 1200)])
    def test_is_like_pillow(self, width: int, height: int, channels: Literal[1, 3], resize: str) -> None:
        form = schema(224, 224, channels, resize=resize)
        data = jpeg(scene(width, height), quality=92)
        pixels = decode_jpeg(data, form, MANY)
        assert pixels is not None
        assert pixels.shape == (224, 224, 4 if channels == 3 else 1)
        assert likeness(pixels[..., :channels], by_pillow(data, form)) > 40

    def test_fine_patterns_of_large_pictures_do_not_alias(self) -> None:
        stripes = np.zeros((1024, 1024, 3), np.uint8)
        stripes[:, ::2] = 255
        pixels = decode_image(jpeg(Image.fromarray(stripes), quality=100, subsampling=0), schema(100, 100))
        np.testing.assert_allclose(pixels, 127, atol=12)

    @pytest.mark.parametrize("orientation", range(10))
    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    def test_lies_as_exif_says(self, orientation: int, resize: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(scene(90, 60).filter(ImageFilter.GaussianBlur(2)), exif=exif, quality=95)
        form = schema(40, 50, resize=resize)
        pixels = decode_jpeg(data, form, MANY)
        assert pixels is not None
        assert likeness(pixels[..., :3], by_pillow(data, form)) > 38

    def test_lies_as_xmp_says_when_exif_does_not(self) -> None:
        picture = scene(90, 60).filter(ImageFilter.GaussianBlur(2))
        plain = jpeg(picture, quality=95)
        told = b"http://ns.adobe.com/xap/1.0/\0" + b'<rdf:Description tiff:Orientation="3"/>'
        segment = b"\xff\xff\xe1" + (len(told) + 2).to_bytes(2, "big") + told  # with a fill byte
        form = schema(60, 90)
        pixels = decode_jpeg(plain[:2] + segment + plain[2:], form, MANY)
        upright = decode_jpeg(plain, form, MANY)
        assert pixels is not None
        assert upright is not None
        np.testing.assert_array_equal(pixels, upright[::-1, ::-1])

    @pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 5}])
    def test_takes_every_ordinary_form(self, options: dict[str, Any]) -> None:
        assert decode_jpeg(jpeg(scene(60, 50), **options), schema(20, 20), MANY) is not None

    def test_greys_become_colours(self) -> None:
        pixels = decode_jpeg(jpeg(scene(60, 50).convert("L"), quality=95), schema(20, 20), MANY)
        assert pixels is not None
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff\xd8\xff",
            b"\xff\xd8\xff\xe0\x00\x01" + bytes(50),
            b"no picture",
            saved(scene(60, 50), "PNG"),
            jpeg(scene(60, 50).convert("CMYK")),
            jpeg(scene(60, 50))[:-200],
            jpeg(scene(60, 50))[:-2],
            jpeg(scene(60, 50))[:300],
        ],
    )
    def test_leaves_others_alone(self, data: bytes) -> None:
        assert decode_jpeg(data, schema(20, 20), MANY) is None

    def test_leaves_large_ones_alone(self) -> None:
        data = jpeg(scene(60, 50))
        assert decode_jpeg(data, schema(20, 20), 60 * 50) is not None
        assert decode_jpeg(data, schema(20, 20), 60 * 50 - 1) is None

    @pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(64, 64), (128, 128), (100, 80), (301, 203), (30, 40)])
    def test_stays_when_the_next_one_is_decoded(
        self, size: tuple[int, int], channels: Literal[1, 3], resize: str
    ) -> None:
        form = schema(64, 64, channels, resize=resize)
        pixels = decode_jpeg(jpeg(scene(*size)), form, MANY)
        assert pixels is not None
        before = pixels.copy()
        assert decode_jpeg(jpeg(scene(640, 640, seed=1)), form, MANY) is not None
        np.testing.assert_array_equal(pixels, before)

    def test_takes_large_ones(self) -> None:
        pixels = decode_jpeg(jpeg(Image.new("RGB", (2100, 2100), (90, 90, 90))), schema(2000, 2000), MANY)
        assert pixels is not None
        np.testing.assert_allclose(pixels[..., :3], 90, atol=1)

    def test_is_the_same_in_many_threads(self) -> None:
        pictures = [jpeg(scene(300, 200 + seed, seed)) for seed in range(8)]
        form = schema(64, 64)
        expected = [convert_image(data, form) for data in pictures]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                assert list(pool.map(lambda data: convert_image(data, form), pictures)) == expected

    @pytest.mark.parametrize(
        ("given_size", "wanted"),
        [
            ((9, 16), (5, 32)),
            ((96, 54), (81, 96)),
            ((81, 49), (65, 98)),
            ((256, 131), (279, 262)),
            ((525, 270), (236, 675)),
        ],
    )
    def test_enlarges_the_middle(self, given_size: tuple[int, int], wanted: tuple[int, int]) -> None:
        """A part of the picture that begins between two pixels; the resampler's own cropping died of these."""
        data = jpeg(scene(*given_size).filter(ImageFilter.GaussianBlur(1)), quality=95, subsampling=0)
        form = schema(wanted[1], wanted[0])
        done = subprocess.run([sys.executable, "-c", ONE, *map(str, wanted)], input=data, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        pixels = np.frombuffer(done.stdout, np.uint8).reshape(wanted[1], wanted[0], 4)
        assert likeness(pixels[..., :3], by_pillow(data, form)) > 38

    @pytest.mark.parametrize("seed", range(3))
    def test_no_size_kills_the_process(self, seed: int) -> None:
        done = subprocess.run([sys.executable, "-c", MANY_SIZES, str(seed), "1500"], capture_output=True, text=True)
        assert done.returncode == 0, f"{done.returncode} after {done.stdout[-200:]}\n{done.stderr}"

    @pytest.mark.parametrize("channels", [1, 3])
    def test_cutting_to_whole_pixels_keeps_the_middle(self, channels: Literal[1, 3]) -> None:
        draw = random.Random(channels)
        for _ in range(20):
            width, height = draw.randint(100, 400), draw.randint(100, 400)
            form = schema(draw.randint(40, height), draw.randint(40, width), channels)
            data = jpeg(scene(width, height).filter(ImageFilter.GaussianBlur(1.5)), quality=95)
            pixels = decode_jpeg(data, form, MANY)
            assert pixels is not None
            like = likeness(pixels[..., :channels], by_pillow(data, form))
            assert like > 40, (width, height, form.width, form.height, like)


class TestEncode:
    def test_is_as_good_as_pillow(self) -> None:
        picture = scene(224, 224)
        ours = encode_jpeg(np.asarray(picture), 95)
        theirs = jpeg(picture, quality=95, subsampling="4:2:0")
        assert len(ours) < 1.05 * len(theirs)
        like = [likeness(Image.open(io.BytesIO(data)), picture) for data in (ours, theirs)]
        assert like[0] > like[1] - 0.5
        assert like[0] > 35

    def test_the_fourth_byte_means_nothing(self) -> None:
        pixels = np.asarray(scene(33, 21))
        with_fourth = np.dstack([pixels, np.arange(33 * 21, dtype=np.uint8).reshape(21, 33)])
        assert encode_jpeg(np.ascontiguousarray(with_fourth), 90) == encode_jpeg(pixels, 90)

    @pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_converting_is_decoding_and_encoding(self, encoding: Any, channels: Literal[1, 3]) -> None:
        from millrace.runtime.images import encode_image

        form = schema(40, 60, channels, encoding=encoding)
        for data in (jpeg(scene(90, 70)), saved(scene(90, 70), "PNG")):
            assert convert_image(data, form) == encode_image(decode_image(data, form), form)


SEEDS = [
    jpeg(scene(70, 50)),
    jpeg(scene(70, 50), progressive=True),
    jpeg(scene(70, 50), exif=Image.Exif().tobytes() + b"x", comment=b"c" * 300),
    jpeg(scene(70, 50).convert("L")),
    jpeg(scene(70, 50).convert("CMYK")),
]


def verdict(data: bytes, form: ImageRecords) -> Any:
    """The pixels, or the reason why there are none."""
    try:
        return decode_image(data, form, max_pixels=200_000)
    except ImageRejected as rejected:
        return rejected.reason


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("damage", ["header", "end"])
def test_what_is_refused_is_what_pillow_refuses(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    form, seen = schema(40, 50), set()
    for _ in range(300):
        data = bytearray(draw.choice(SEEDS))
        if damage == "end":
            del data[draw.randrange(2, len(data)) :]
        else:
            data[draw.randrange(2, data.index(b"\xff\xda") + 12)] = draw.randrange(256)
        ours = verdict(bytes(data), form)
        with monkeypatch.context() as patched:
            patched.setattr("millrace.runtime.images.decode_jpeg", lambda *_: None)
            theirs = verdict(bytes(data), form)
        assert isinstance(ours, str) == isinstance(theirs, str), bytes(data)
        if isinstance(ours, str):
            assert ours == theirs, bytes(data)
        seen.add(ours if isinstance(ours, str) else "decoded")
    assert seen >= ({"truncated"} if damage == "end" else {"decoded", "corrupt"})


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=6),
    cut=st.floats(0, 1),
    tail=st.binary(max_size=20),
)
def test_whatever_the_bytes_are(seed: bytes, changes: list[tuple[float, bytes]], cut: float, tail: bytes) -> None:
    data = bytearray(seed)
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    mutated = bytes(data[: max(3, int(cut * 1.3 * len(data)))]) + tail
    try:
        record = convert_image(mutated, schema(16, 24), max_pixels=200_000)
    except ImageRejected:
        return
    assert Image.open(io.BytesIO(record)).size == (24, 16)
