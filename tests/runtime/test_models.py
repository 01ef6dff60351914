"""One function from pixels to probabilities, whatever form a model was saved in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ImageRecords, ModelCard

SCHEMA = ImageRecords(height=6, width=8, channels=3, encoding="png", resize="crop", classes=("a", "b", "c", "d"))
INTEGERS = {"int8": tf.int8, "uint8": tf.uint8}


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((6, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def expected(network: Any) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = network(pictures(300).astype(np.float32), training=False).numpy()
    return probabilities


def save_card(folder: Path, file: str, **changes: Any) -> Path:
    form: Literal["keras", "litert"] = "keras" if file == "model.keras" else "litert"
    card = ModelCard(format=form, name="cnn", records=SCHEMA, parameters=500, bytes=(folder / file).stat().st_size)
    (folder / "model.json").write_text(card.model_copy(update=changes).model_dump_json())
    return folder


def as_keras(network: Any, folder: Path, **changes: Any) -> Path:
    network.save(folder / "model.keras")
    return save_card(folder, "model.keras", **changes)


def as_litert(network: Any, folder: Path, integers: str | None = None, **changes: Any) -> Path:
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([one[None].astype(np.float32)] for one in pictures(50))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = INTEGERS[integers]
    (folder / "model.tflite").write_bytes(converter.convert())
    return save_card(folder, "model.tflite", **changes)


FORMS = {"keras": as_keras, "litert": as_litert}


class TestAnswers:
    @pytest.mark.parametrize("form", FORMS)
    def test_equal_the_networks_own(
        self, form: str, network: Any, expected: NDArray[np.float32], tmp_path: Path
    ) -> None:
        predictor = load_predictor(FORMS[form](network, tmp_path))
        answers = predictor.predict(pictures(300))
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, atol=1e-5)
        assert predictor.card.records == SCHEMA

    @pytest.mark.parametrize("integers", INTEGERS)
    def test_of_a_model_with_integers_at_both_ends_are_probabilities(
        self, integers: str, network: Any, expected: NDArray[np.float32], tmp_path: Path
    ) -> None:
        answers = load_predictor(as_litert(network, tmp_path, integers)).predict(pictures(300))
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, atol=0.05)

    @pytest.mark.parametrize("form", FORMS)
    def test_do_not_depend_on_the_size_of_the_batch(self, form: str, network: Any, tmp_path: Path) -> None:
        predictor = load_predictor(FORMS[form](network, tmp_path), threads=1)
        whole = predictor.predict(pictures(20))
        parts = [predictor.predict(pictures(20)[start:end]) for start, end in ((0, 1), (1, 2), (2, 10), (10, 20))]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)

    @pytest.mark.parametrize("form", FORMS)
    def test_of_no_images_are_no_rows(self, form: str, network: Any, tmp_path: Path) -> None:
        assert load_predictor(FORMS[form](network, tmp_path)).predict(pictures(0)).shape == (0, 4)

    @pytest.mark.parametrize("form", FORMS)
    def test_to_several_threads_are_not_mixed_up(
        self, form: str, network: Any, expected: NDArray[np.float32], tmp_path: Path
    ) -> None:
        predictor = load_predictor(FORMS[form](network, tmp_path))
        images = pictures(300)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda index: predictor.predict(images[index : index + 1 + index % 3]), range(200)))
        for index, answer in enumerate(answers):
            np.testing.assert_allclose(answer, expected[index : index + 1 + index % 3], atol=1e-5)

    def test_of_a_model_with_a_fixed_batch_size(
        self, network: Any, expected: NDArray[np.float32], tmp_path: Path
    ) -> None:
        of_four = keras.Sequential([keras.Input(batch_shape=(4, 6, 8, 3)), *network.layers])
        answers = load_predictor(as_litert(of_four, tmp_path)).predict(pictures(300)[:11])
        np.testing.assert_allclose(answers, expected[:11], atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        "images",
        [
            np.zeros((2, 8, 6, 3), np.uint8),
            np.zeros((2, 6, 8, 1), np.uint8),
            np.zeros((6, 8, 3), np.uint8),
            np.zeros((2, 6, 8, 3), np.float32),
        ],
        ids=["turned", "grey", "one", "float"],
    )
    def test_other_images_are_refused(self, images: Any, network: Any, tmp_path: Path) -> None:
        predictor = load_predictor(as_litert(network, tmp_path))
        with pytest.raises(DataError, match=r"needs images as uint8 \[N, 6, 8, 3\], given: (uint8|float32) \["):
            predictor.predict(images)

    def test_a_folder_without_a_card(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"model\.json: No such file"):
            load_predictor(tmp_path)

    @pytest.mark.parametrize(("form", "file"), [("keras", "model.keras"), ("litert", "model.tflite")])
    def test_a_missing_file_is_named(self, form: str, file: str, network: Any, tmp_path: Path) -> None:
        (FORMS[form](network, tmp_path) / file).unlink()
        with pytest.raises(DataError, match=rf"{file}: No such file"):
            load_predictor(tmp_path)

    @pytest.mark.parametrize(("form", "file"), [("keras", "model.keras"), ("litert", "model.tflite")])
    def test_a_file_that_was_cut_off(self, form: str, file: str, network: Any, tmp_path: Path) -> None:
        path = FORMS[form](network, tmp_path) / file
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match=rf"{file} has 1000 bytes, model.json says {size}"):
            load_predictor(tmp_path)

    @pytest.mark.parametrize(("form", "file"), [("keras", "model.keras"), ("litert", "model.tflite")])
    @pytest.mark.parametrize("damage", ["zeros", "noise"])
    def test_a_corrupt_file(self, form: str, file: str, damage: str, network: Any, tmp_path: Path) -> None:
        path = FORMS[form](network, tmp_path) / file
        size = path.stat().st_size
        path.write_bytes(bytes(size) if damage == "zeros" else np.random.default_rng(0).bytes(size))
        with pytest.raises(DataError, match=rf"{file} can't be loaded as a model"):
            load_predictor(tmp_path)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("change", [{"width": 9}, {"classes": ("a", "b")}, {"channels": 1}], ids=str)
    def test_a_file_that_does_not_fit_its_card(
        self, form: str, change: dict[str, Any], network: Any, tmp_path: Path
    ) -> None:
        FORMS[form](network, tmp_path, records=SCHEMA.model_copy(update=change))
        with pytest.raises(
            DataError, match=r"takes images of .*\(6, 8, 3\) and answers with 4 classes; its model.json"
        ):
            load_predictor(tmp_path)

    def test_code_inside_a_model_is_not_run(self, tmp_path: Path) -> None:
        layers = [keras.Input((6, 8, 3)), keras.layers.Lambda(lambda x: x / 255), keras.layers.Flatten()]
        network = keras.Sequential([*layers, keras.layers.Dense(4, activation="softmax")])
        with pytest.raises(DataError, match=r"model\.keras can't be loaded as a model: .*Lambda"):
            load_predictor(as_keras(network, tmp_path))
