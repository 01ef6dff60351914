"""The digits component writes scikit-learn's pictures, unchanged, into class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from millrace.components.digits.spec import DigitsParameters, digits
from millrace.testing import Ran, run_component


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_component(digits, DigitsParameters(), tmp_path_factory.mktemp("digits"))


def test_all_pictures_are_in_the_folder_of_their_class(whole: Ran) -> None:
    files = sorted(whole.outputs["dataset"].glob("*/*"))
    assert len(files) == 1797
    assert whole.metadata["dataset"] == {"objects": 1797}
    labels = {int(file.stem.partition("-")[2]): int(file.parent.name) for file in files}
    assert [labels[index] for index in range(1797)] == load_digits(return_X_y=True)[1].tolist()


def test_pixels_are_the_sources_in_8_bit_grey(whole: Ran) -> None:
    values, targets = load_digits(return_X_y=True)
    for index in (0, 100, 1796):
        file = whole.outputs["dataset"] / str(targets[index]) / f"digit-{index:04d}.png"
        with Image.open(file) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (8, 8))
            np.testing.assert_allclose(np.asarray(picture), values[index].reshape(8, 8) * 255 / 16, atol=0.5)


def test_scale_enlarges_and_limit_bounds_each_class(tmp_path: Path) -> None:
    ran = run_component(digits, DigitsParameters(scale=3, limit=2), tmp_path)
    files = sorted(ran.outputs["dataset"].glob("*/*"))
    assert [file.parent.name for file in files] == [str(digit) for digit in range(10) for _ in range(2)]
    with Image.open(files[0]) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (24, 24)
    blocks = pixels.reshape(8, 3, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = (
        run_component(digits, DigitsParameters(limit=3), tmp_path / name).outputs["dataset"] for name in ("a", "b")
    )
    assert {file.relative_to(first): file.read_bytes() for file in first.glob("*/*")} == {
        file.relative_to(second): file.read_bytes() for file in second.glob("*/*")
    }
