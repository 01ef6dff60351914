"""A quantized model is smaller, answers nearly the same, and never costs more accuracy than allowed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.errors import DataError, TaskFailedError
from millrace.runtime.models import load_predictor
from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import Channel, ImageRecords, ModelCard, read_json_model
from millrace.testing import ComponentContract, Ran, run_component, write_records
from tests.pictures import picture_records

pytestmark = pytest.mark.slow

CLASSES = tuple("0123456789")
SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="raw", resize="stretch", classes=CLASSES)
SPLIT: dict[Channel, slice] = {"train": slice(0, 1000), "validation": slice(1000, 1100), "test": slice(1100, 1797)}
Scheme = Literal["dynamic", "float16", "int8"]


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = load_digits(return_X_y=True)
    return np.rint(pixels.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8), np.asarray(labels)


def some(rows: slice, schema: ImageRecords = SCHEMA) -> Iterator[ImageRecord]:
    """Records of some of the digits."""
    images, labels = digits()
    shaped = (np.resize(image, schema.shape) for image in images[rows])
    return picture_records(shaped, labels[rows], schema)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    channels: dict[Channel, list[Iterator[ImageRecord]]] = {name: [some(rows)] for name, rows in SPLIT.items()}
    return write_records(tmp_path_factory.mktemp("digits") / "records", SCHEMA, channels)


@pytest.fixture(scope="module")
def network() -> Any:
    """A small network that knows the digits."""
    import keras

    keras.utils.set_random_seed(1)
    network: Any = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    images, labels = digits()
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images[SPLIT["train"]], labels[SPLIT["train"]], epochs=12, verbose=0)
    return network


def save_model(network: Any, folder: Path) -> Path:
    network.save(folder / "model.keras")
    size = (folder / "model.keras").stat().st_size
    card = ModelCard(format="keras", name="cnn", records=SCHEMA, parameters=network.count_params(), bytes=size)
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def model(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(network, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def quantized(model: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Scheme, Ran]:
    schemes: tuple[Scheme, ...] = ("int8", "dynamic", "float16")
    return {
        scheme: run_component(
            quantize,
            QuantizeParameters(scheme=scheme),
            tmp_path_factory.mktemp(scheme),
            model=model,
            records=records,
        )
        for scheme in schemes
    }


class TestContract(ComponentContract):
    component = quantize


@pytest.mark.parametrize(("scheme", "ratio"), [("int8", 0.45), ("dynamic", 0.45), ("float16", 0.65)])
class TestScheme:
    def test_costs_at_most_a_hundredth_of_accuracy(
        self, scheme: Scheme, ratio: float, quantized: dict[Scheme, Ran], model: Path
    ) -> None:
        images, labels = digits()
        test, metrics = SPLIT["test"], quantized[scheme].metrics
        small = load_predictor(quantized[scheme].outputs["model"]).predict(images[test]).argmax(axis=1)
        own = load_predictor(model).predict(images[test]).argmax(axis=1)
        assert metrics["float_accuracy"] > 0.93
        assert metrics["accuracy_drop"] <= 0.01
        assert metrics["accuracy"] == pytest.approx((small == labels[test]).mean())
        assert metrics["float_accuracy"] == pytest.approx((own == labels[test]).mean())
        assert metrics["accuracy_drop"] == pytest.approx(metrics["float_accuracy"] - metrics["accuracy"])
        assert metrics["agreement"] == pytest.approx((small == own).mean())

    def test_makes_it_smaller(self, scheme: Scheme, ratio: float, quantized: dict[Scheme, Ran]) -> None:
        assert quantized[scheme].metrics["size_ratio"] < ratio
        assert 0 < quantized[scheme].metrics["latency_ms"] < 100
        assert 0 < quantized[scheme].metrics["float_latency_ms"] < 100

    def test_says_what_it_made(self, scheme: Scheme, ratio: float, quantized: dict[Scheme, Ran], network: Any) -> None:
        ran = quantized[scheme]
        card = read_json_model(ran.outputs["model"] / "model.json", ModelCard)
        size = (ran.outputs["model"] / "model.tflite").stat().st_size
        expected = ModelCard(
            format="litert",
            name="cnn",
            records=SCHEMA,
            parameters=network.count_params(),
            bytes=size,
            quantization=scheme,
        )
        assert card == expected
        facts = {"format": "litert", "classes": 10, "parameters": card.parameters, "bytes": size}
        assert ran.metadata["model"] == facts
        assert {path.name for path in ran.outputs["model"].iterdir()} == {"model.tflite", "model.json"}
        (chart,) = json.loads((ran.outputs["metrics"] / "charts.json").read_text())
        assert [curve["name"] for curve in chart["curves"]] == ["float32", scheme]


def test_int8_takes_pixels_as_they_are(quantized: dict[Scheme, Ran]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(quantized["int8"].outputs["model"] / "model.tflite"))
    (detail,) = interpreter.get_input_details()
    assert (detail["dtype"], detail["quantization"]) == (np.uint8, (1.0, 0))


def test_the_same_again_gives_the_same_bytes(
    quantized: dict[Scheme, Ran], model: Path, records: Path, tmp_path: Path
) -> None:
    again = run_component(quantize, QuantizeParameters(), tmp_path, model=model, records=records)
    for name in ("model.tflite", "model.json"):
        first, second = (ran.outputs["model"] / name for ran in (quantized["int8"], again))
        assert first.read_bytes() == second.read_bytes()


class TestCalibration:
    def test_more_records_than_there_are(
        self, model: Path, records: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        parameters = QuantizeParameters(calibration_channel="validation", calibration_records=5000)
        ran = run_component(quantize, parameters, tmp_path, model=model, records=records)
        assert "calibrating with 100 of the 100 validation records" in caplog.text
        assert ran.metrics["accuracy_drop"] <= 0.01

    def test_is_spread_over_the_channel(self, model: Path, tmp_path: Path) -> None:
        """The first half of the channel is black: ranges of black images only would ruin the model."""
        images, _ = digits()
        half = [*[np.zeros_like(images[0])] * 200, *images[:200]]
        train = picture_records(half, [0] * len(half), SCHEMA)
        folder = write_records(tmp_path / "records", SCHEMA, {"train": [train], "test": [some(SPLIT["test"])]})
        ran = run_component(
            quantize, QuantizeParameters(calibration_records=100), tmp_path / "task", model=model, records=folder
        )
        assert ran.metrics["accuracy_drop"] <= 0.02

    def test_only_int8_needs_the_channel(self, model: Path, tmp_path: Path) -> None:
        folder = write_records(tmp_path / "records", SCHEMA, {"test": [some(SPLIT["test"])]})
        dynamic = QuantizeParameters(scheme="dynamic")
        assert run_component(quantize, dynamic, tmp_path / "a", model=model, records=folder).metrics["accuracy"] > 0.9
        with pytest.raises(DataError, match=r"channel 'train' has no records; set calibration_channel to .*: test"):
            run_component(quantize, QuantizeParameters(), tmp_path / "b", model=model, records=folder)


class TestMaximumDrop:
    @pytest.fixture
    def black(self, tmp_path: Path) -> Path:
        """Records whose train channel is black: calibrated on it, int8 knows one value only."""
        train = [ImageRecord(bytes(64), 0, "file:///black")]
        return write_records(tmp_path / "black", SCHEMA, {"train": [train], "test": [some(SPLIT["test"])]})

    def test_more_than_allowed_fails_with_both_accuracies(self, model: Path, black: Path, tmp_path: Path) -> None:
        expected = (
            r"scheme=int8 costs too much accuracy on the test channel: 0\.9\d+ before, 0\.\d+ after, "
            r"a drop of 0\.\d+ with maximum_drop=0\.05; try more calibration_records \(now 200\)"
        )
        with pytest.raises(TaskFailedError, match=expected):
            run_component(quantize, QuantizeParameters(maximum_drop=0.05), tmp_path / "t", model=model, records=black)

    def test_none_accepts_any(self, model: Path, black: Path, tmp_path: Path) -> None:
        ran = run_component(quantize, QuantizeParameters(), tmp_path / "t", model=model, records=black)
        assert ran.metrics["accuracy_drop"] > 0.05

    def test_less_than_allowed_passes(self, model: Path, records: Path, tmp_path: Path) -> None:
        parameters = QuantizeParameters(scheme="float16", maximum_drop=0.01)
        assert run_component(quantize, parameters, tmp_path, model=model, records=records).metrics["accuracy"] > 0.9


class TestRefusals:
    def test_a_channel_without_records(self, model: Path, tmp_path: Path) -> None:
        folder = write_records(tmp_path / "records", SCHEMA, {"train": [some(slice(0, 20))]})
        with pytest.raises(DataError, match=r"channel 'test' has no records; set channel to one that has: train$"):
            run_component(quantize, QuantizeParameters(), tmp_path / "task", model=model, records=folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"width": 9}, "takes images of 8 x 8 pixels with 1 channel, the records are 8 x 9"),
            ({"channels": 3}, "with 1 channel, the records are 8 x 8 pixels with 3 channels"),
            ({"classes": tuple("abcdefghij")}, "'a', 'b', .* only in the records, '0', '1', .* only in the model"),
        ],
        ids=["size", "colours", "classes"],
    )
    def test_records_that_do_not_fit(self, change: dict[str, Any], message: str, model: Path, tmp_path: Path) -> None:
        schema = SCHEMA.model_copy(update=change)
        train, test = some(slice(0, 20), schema), some(slice(20, 40), schema)
        folder = write_records(tmp_path / "records", schema, {"train": [train], "test": [test]})
        with pytest.raises(DataError, match=message):
            run_component(quantize, QuantizeParameters(), tmp_path / "task", model=model, records=folder)

    def test_a_model_that_was_quantized_before(
        self, quantized: dict[Scheme, Ran], records: Path, tmp_path: Path
    ) -> None:
        small = quantized["int8"].outputs["model"]
        with pytest.raises(DataError, match=r"format litert \(quantization: int8\), needed: keras"):
            run_component(quantize, QuantizeParameters(), tmp_path, model=small, records=records)

    def test_a_damaged_record_file(self, model: Path, records: Path, tmp_path: Path) -> None:
        folder = tmp_path / "records"
        shutil.copytree(records, folder)
        file = folder / "test-00000-of-00001.tfrecord"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"can't be read: .*; make the records anew"):
            run_component(quantize, QuantizeParameters(), tmp_path / "task", model=model, records=folder)


class TestOperations:
    @staticmethod
    def model_with(operation: Any, network: Any, folder: Path) -> Path:
        import keras

        first, *middle, last = (layer for layer in network.layers if not isinstance(layer, keras.layers.Dropout))
        given = keras.Input((8, 8, 1))
        hidden = first(given)
        for layer in middle:
            hidden = layer(hidden)
        folder.mkdir()
        return save_model(keras.Model(given, last(operation(hidden))), folder)

    def test_without_an_8_bit_form_stay_in_float(self, network: Any, records: Path, tmp_path: Path) -> None:
        import keras

        model = self.model_with(keras.ops.sin, network, tmp_path / "model")
        ran = run_component(quantize, QuantizeParameters(), tmp_path / "task", model=model, records=records)
        assert ran.metrics["agreement"] > 0.9

    def test_that_litert_lacks_are_named(self, network: Any, records: Path, tmp_path: Path) -> None:
        import keras

        model = self.model_with(keras.ops.erf, network, tmp_path / "model")
        with pytest.raises(TaskFailedError, match=r"can't be converted to LiteRT: it has no tf\.Erf; "):
            run_component(quantize, QuantizeParameters(), tmp_path / "task", model=model, records=records)
