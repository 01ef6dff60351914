"""Augmentation, schedules, the data stream and the networks, one by one."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from millrace.components.train.spec import TrainParameters
from millrace.errors import ConfigError, DataError
from millrace.runtime.schemas import ImageRecords
from millrace.training.augmentation import AugmentationLayer
from millrace.training.data import inspect, training_batches
from millrace.training.models import build_model, load_pretrained
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.options.models import Application, Cnn, Custom, Mlp
from millrace.training.options.schedules import (
    Constant,
    Cosine,
    EarlyStopping,
    Exponential,
    Piecewise,
    ReduceOnPlateau,
    Schedule,
)
from millrace.training.schedule import best_epoch, learning_rate, make_optimizer, should_stop
from tests.components.train_data import CLASSES, picture, write_picture_records

SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=CLASSES)


BACKBONES: Any = keras.applications


def loaded(path: Path) -> Any:
    """A saved model, as anybody loads it."""
    return keras.models.load_model(path)


def constant_model(shape: tuple[int, ...], classes: int) -> Any:
    """A model of a user's own."""
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes, activation="softmax")]
    )


def wide_model(shape: tuple[int, ...], classes: int) -> Any:
    """A model with an output too many."""
    return constant_model(shape, classes + 1)


def augmented(images: NDArray[np.uint8], seed: int = 1, **knobs: Any) -> NDArray[np.float32]:
    layer = AugmentationLayer(Augmentation(**knobs))
    result: NDArray[np.float32] = layer(images, seed=tf.constant([seed, 0], tf.int64)).numpy()
    return result


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([picture(number % 3, number, channels=3) for number in range(64)])


class TestAugmentation:
    def test_changes_nothing_by_default(self, images: NDArray[np.uint8]) -> None:
        assert np.array_equal(augmented(images), images)

    def test_is_a_function_of_the_seed(self, images: NDArray[np.uint8]) -> None:
        first = augmented(images, rotation_degrees=30, brightness=(0.5, 1.5))
        assert np.array_equal(first, augmented(images, rotation_degrees=30, brightness=(0.5, 1.5)))
        assert not np.array_equal(first, augmented(images, seed=2, rotation_degrees=30, brightness=(0.5, 1.5)))

    def test_treats_each_image_in_its_own_way(self, images: NDArray[np.uint8]) -> None:
        same = np.repeat(images[:1], 8, axis=0)
        changed = augmented(same, rotation_degrees=45)
        assert len({image.tobytes() for image in changed}) == 8

    @pytest.mark.parametrize(("knob", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
    def test_flips_about_half(self, images: NDArray[np.uint8], knob: str, axis: int) -> None:
        changed = augmented(images, **{knob: True})
        flipped = np.flip(images, axis)
        turned = [np.allclose(a, b) for a, b in zip(changed, flipped, strict=True)]
        kept = [np.allclose(a, b) for a, b in zip(changed, images, strict=True)]
        assert all(a != b for a, b in zip(turned, kept, strict=True))
        assert 16 <= sum(turned) <= 48

    def test_zoom_enlarges_about_the_centre(self) -> None:
        image = np.zeros((1, 9, 9, 1), np.uint8)
        image[0, 4, 4] = 200
        changed = augmented(image, zoom=(3, 3))
        assert changed[0, 4, 4, 0] == pytest.approx(200)
        assert changed.sum() > 5 * image.sum()

    def test_shifts_stay_within_their_limit(self) -> None:
        image = np.zeros((32, 1, 21, 1), np.uint8)
        image[:, :, 10] = 240
        changed = augmented(image, width_shift=0.2, fill_mode="constant")
        centres = (changed[..., 0] * np.arange(21)).sum(axis=(1, 2)) / changed.sum(axis=(1, 2, 3))
        assert np.all(np.abs(centres - 10) <= 0.2 * 21 + 1e-3)
        assert centres.std() > 1

    def test_rotation_keeps_the_centre(self) -> None:
        image = np.zeros((8, 9, 9, 1), np.uint8)
        image[:, 4, :] = 200
        changed = augmented(image, rotation_degrees=90, fill_mode="constant")
        assert np.allclose(changed[:, 4, 4, 0], 200, atol=0.1)
        assert np.any(changed[:, :3, 4, 0] > 100)

    def test_shear_moves_rows_against_each_other(self) -> None:
        image = np.zeros((8, 9, 9, 1), np.uint8)
        image[:, :, 4] = 200
        changed = augmented(image, shear_degrees=40, fill_mode="constant")
        assert np.allclose(changed[:, 4], image[:, 4], atol=0.1)
        assert np.any(changed[:, 0, 4, 0] < 100)

    @pytest.mark.parametrize(("mode", "border"), [("constant", 77.0), ("nearest", 10.0)])
    def test_fill_mode(self, mode: str, border: float) -> None:
        image = np.full((1, 8, 8, 1), 10, np.uint8)
        changed = augmented(image, zoom=(0.5, 0.5), fill_mode=mode, fill_value=77)
        assert changed[0, 0, 0, 0] == pytest.approx(border)

    def test_brightness_and_contrast(self) -> None:
        image = np.array([[[[40]], [[80]]]], np.uint8)
        assert augmented(image, brightness=(2, 2)).ravel().tolist() == [80, 160]
        assert augmented(image, contrast=(0.5, 0.5)).ravel().tolist() == [50, 70]

    def test_channel_shift_is_bounded_and_clipped(self, images: NDArray[np.uint8]) -> None:
        changed = augmented(images, channel_shift=20)
        assert 1 < np.abs(changed - images).max() <= 20
        assert changed.min() >= 0
        assert changed.max() <= 255


class TestSchedule:
    @staticmethod
    def rates(parameters: TrainParameters, steps: int, at: list[int]) -> list[float]:
        schedule = make_optimizer(parameters, steps)._learning_rate
        return [float(schedule(step)) for step in at]

    def test_cosine_rises_then_falls(self) -> None:
        parameters = TrainParameters(epochs=10, learning_rate=1, schedule=Cosine(warmup_epochs=2, floor=0.1))
        assert self.rates(parameters, 10, [0, 10, 20, 100]) == pytest.approx([0, 0.5, 1, 0.1])

    def test_exponential(self) -> None:
        parameters = TrainParameters(learning_rate=1, schedule=Exponential(rate=0.5, epochs=2))
        assert self.rates(parameters, 10, [0, 20, 40]) == pytest.approx([1, 0.5, 0.25])

    def test_piecewise_changes_with_the_epoch(self) -> None:
        parameters = TrainParameters(learning_rate=1, schedule=Piecewise(epochs=(2, 3), factors=(0.1, 0.01)))
        assert self.rates(parameters, 10, [0, 19, 20, 29, 30]) == pytest.approx([1, 1, 0.1, 0.1, 0.01])

    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            (Constant(warmup_epochs=2), [0, 0.5, 1, 1, 1]),
            (Cosine(warmup_epochs=2), [0, 0.5, 1, 0.5, 0]),
            (Exponential(warmup_epochs=2, rate=0.5, epochs=2), [0, 0.5, 1, 0.25, 0.0625]),
            (Piecewise(warmup_epochs=2, epochs=(1, 6), factors=(0.5, 0.1)), [0, 0.25, 0.5, 0.1, 0.1]),
        ],
    )
    def test_warm_up_rises_in_a_straight_line(self, schedule: Schedule, expected: list[float]) -> None:
        parameters = TrainParameters(epochs=10, learning_rate=1, schedule=schedule)
        assert self.rates(parameters, 10, [0, 10, 20, 60, 100]) == pytest.approx(expected, abs=1e-6)

    def test_warm_up_before_a_plateau(self) -> None:
        schedule = ReduceOnPlateau(warmup_epochs=1.5, patience=1, factor=0.1, minimum=0)
        parameters = TrainParameters(learning_rate=1, schedule=schedule)
        history = [{"validation_loss": loss} for loss in (1.0, 2.0, 1.5, 1.5)]
        rates = [learning_rate(parameters, history[: step // 10], step, 10) for step in (0, 5, 15, 20, 30, 40)]
        assert rates == pytest.approx([0, 1 / 3, 1, 1, 1, 0.1])  # epochs of the rise are no measure

    def test_plateau_follows_from_the_history(self) -> None:
        schedule = ReduceOnPlateau(patience=2, factor=0.1, minimum=0.005)
        parameters = TrainParameters(learning_rate=1, schedule=schedule)
        losses = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0]
        rates = [
            learning_rate(parameters, [{"validation_loss": loss} for loss in losses[:epochs]], 0, 1)
            for epochs in range(8)
        ]
        assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])

    def test_stops_after_patience_without_improvement(self) -> None:
        stopping = EarlyStopping(monitor="validation_accuracy", patience=2, min_delta=0.05)
        history = [{"validation_accuracy": value} for value in (0.5, 0.8, 0.82, 0.84)]
        assert [should_stop(stopping, history[:epochs]) for epochs in range(5)] == [False, False, False, False, True]
        assert best_epoch(stopping, history) == 1
        assert not should_stop(None, history)

    @pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "nadam", "rmsprop", "adagrad", "lion"])
    def test_every_optimizer_can_be_made(self, kind: str) -> None:
        parameters = TrainParameters.model_validate({"optimizer": {"kind": kind}, "gradient_clip_norm": 1})
        assert make_optimizer(parameters, 10).global_clipnorm == 1


class TestData:
    @pytest.mark.parametrize("cache_mib", [512, 0])
    def test_stream_goes_on_from_any_step(self, tmp_path: Path, cache_mib: int) -> None:
        parameters = TrainParameters(
            batch_size=10, cache_mib=cache_mib, shuffle_buffer=16, augmentation=Augmentation(rotation_degrees=20)
        )
        data = inspect(write_picture_records(tmp_path), parameters)
        whole = list(training_batches(data, parameters, 0).take(16).as_numpy_iterator())
        rest = list(training_batches(data, parameters, 9).take(7).as_numpy_iterator())
        for expected, found in zip(whole[9:], rest, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))

    @pytest.mark.parametrize("cache_mib", [512, 0])
    def test_every_pass_sees_each_record_once_in_another_order(self, tmp_path: Path, cache_mib: int) -> None:
        parameters = TrainParameters(batch_size=16, cache_mib=cache_mib)
        data = inspect(write_picture_records(tmp_path), parameters)  # 64 records
        batches = training_batches(data, parameters, 0).take(8).as_numpy_iterator()
        seen = [image.tobytes() for images, _ in batches for image in images]
        assert len(set(seen[:64])) == 64
        assert set(seen[:64]) == set(seen[64:])
        assert seen[:64] != seen[64:]

    def test_seed_changes_the_order(self, tmp_path: Path) -> None:
        records = write_picture_records(tmp_path)
        first, second = (
            next(training_batches(inspect(records, p), p, 0).as_numpy_iterator())[0]
            for p in (TrainParameters(seed=0), TrainParameters(seed=1))
        )
        assert not np.array_equal(first, second)

    def test_class_weights(self, tmp_path: Path) -> None:
        records = write_picture_records(tmp_path)
        assert inspect(records, TrainParameters()).class_weights is None
        balanced = inspect(records, TrainParameters(class_weights="balanced"))
        assert balanced.class_weights == pytest.approx((64 / 90, 64 / 60, 64 / 42))
        parameters = TrainParameters(class_weights={"north": 2.5})
        _, targets, weights = next(training_batches(inspect(records, parameters), parameters, 0).as_numpy_iterator())
        assert np.array_equal(weights, np.where(targets[:, 1] == 1, 2.5, 1))
        with pytest.raises(ConfigError, match="unknown class 'nort': did you mean 'north'"):
            inspect(records, TrainParameters(class_weights={"nort": 1}))

    def test_refuses_what_cannot_be_trained_on(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no train records"):
            inspect(write_picture_records(tmp_path / "a", train=(0, 0, 0)), TrainParameters())
        with pytest.raises(DataError, match="no validation records"):
            inspect(write_picture_records(tmp_path / "b", validation=(0, 0, 0)), TrainParameters())
        with pytest.raises(DataError, match="no train record of class 'north'"):
            inspect(write_picture_records(tmp_path / "c", train=(40, 0, 2)), TrainParameters())
        with pytest.raises(ConfigError, match="batch_size is 65, but there are only 64 train records"):
            inspect(write_picture_records(tmp_path / "d"), TrainParameters(batch_size=65))
        with pytest.raises(DataError, match="no test records"):
            inspect(write_picture_records(tmp_path / "e"), TrainParameters(test_steps=1))


class TestModels:
    def build(self, schema: ImageRecords = SCHEMA, **parameters: Any) -> Any:
        return build_model(TrainParameters.model_validate(parameters), schema, policy="float32")

    @pytest.mark.parametrize(
        "model",
        [
            Cnn(filters=(4, 8), units=(8,), batch_norm=False, pooling="average"),
            Cnn(filters=(4,), units=(), kernel=5),
            Mlp(units=(8, 4), batch_norm=True),
            Custom(function=f"{__name__}:constant_model"),
        ],
    )
    def test_loads_with_plain_keras(self, tmp_path: Path, model: Any) -> None:
        built = self.build(model=model)
        built.save(tmp_path / "model.keras")
        images = np.stack([picture(0, number) for number in range(4)])
        expected = built(images).numpy()
        assert np.array_equal(loaded(tmp_path / "model.keras")(images), expected)
        assert expected.sum(axis=1) == pytest.approx(1, abs=1e-5)

    def test_same_seed_same_weights(self) -> None:
        first, second, other = (self.build(model=Mlp(), seed=seed).get_weights()[0] for seed in (3, 3, 4))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_samplewise_normalisation(self) -> None:
        built = self.build(model=Mlp(), pixels=Pixels(normalise="samplewise"))
        images = np.stack([picture(0, number) for number in range(4)]).astype(np.float32)
        layer = keras.Model(built.input, built.get_layer("layer_normalization").output)
        normal = layer(images).numpy()
        assert normal.mean(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-5)
        assert normal.std(axis=(1, 2, 3)) == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize(
        ("size", "filters"),
        [(8, [32, 64]), (32, [32, 64]), (33, [16, 32, 64]), (96, [16, 32, 64, 128]), (224, [16, 32, 64, 128, 128])],
    )
    def test_stages_follow_the_size_of_the_images(self, size: int, filters: list[int]) -> None:
        built = self.build(SCHEMA.model_copy(update={"height": size, "width": size}), model=Cnn(batch_norm=False))
        convolutions = [layer for layer in built.layers if isinstance(layer, keras.layers.Conv2D)]
        assert [layer.filters for layer in convolutions[::2]] == filters

    def test_too_many_stages_for_the_image(self) -> None:
        with pytest.raises(ConfigError, match="4 stages, which need images of 16x16 at least; the records have 8x8"):
            self.build(model=Cnn(filters=(4, 4, 4, 4)))

    def test_image_too_small_for_a_backbone(self) -> None:
        with pytest.raises(ConfigError, match=r"Xception can't take images of 8x8: .*at least 71x71"):
            self.build(model=Application(name="Xception"))

    def test_backbone_with_its_own_preprocessing_and_pinned_weights(self, tmp_path: Path) -> None:
        schema = SCHEMA.model_copy(update={"height": 32, "width": 32})
        weights = tmp_path / "backbone.weights.h5"
        donor = BACKBONES.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
        donor.save_weights(weights)
        choice = Application(
            name="MobileNetV2", weights=str(weights), sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
            trainable=False,
        )  # fmt: skip
        built = self.build(schema, model=choice)
        load_pretrained(built, choice, schema, tmp_path)
        assert len(built.trainable_variables) == 2
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
        features = keras.Model(built.input, built.get_layer("global_average_pooling2d").output)
        colour = np.repeat(images, 3, axis=-1) / 127.5 - 1
        assert np.allclose(features(images), donor(colour).numpy().mean(axis=(1, 2)), atol=1e-5)
        wrong = choice.model_copy(update={"sha256": "0" * 64})
        with pytest.raises(DataError, match=r"model.sha256 asks for 000"):
            load_pretrained(built, wrong, schema, tmp_path)

    def test_names_every_backbone_of_keras(self) -> None:
        names = {name for name, item in vars(BACKBONES).items() if name[0].isupper() and callable(item)}
        assert names == set(Application.model_json_schema()["properties"]["name"]["enum"])

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("nowhere.at_all:model", "can't be imported: No module named 'nowhere'"),
            (f"{__name__}:missing", "can't be imported"),
            (f"{__name__}:CLASSES", "is a tuple, needed: a function"),
            (f"{__name__}:wide_model", r"gives shape \(None, 4\), needed: \(None, 3\)"),
        ],
    )
    def test_custom_functions_that_do_not_fit(self, function: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.build(model=Custom(function=function))


class TestOptions:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"learning_rate": 0},
            {"model": {"kind": "cnn", "filter": [1]}},
            {"model": {"kind": "application", "name": "ResNet51"}},
            {"model": {"kind": "application", "weights": "s3://bucket/w.h5"}},
            {"model": {"kind": "application", "trainable": False}},
            {"augmentation": {"zoom": [1.2, 0.8]}},
            {"schedule": {"kind": "piecewise", "epochs": [3, 2], "factors": [1, 1]}},
            {"class_weights": {"a": -1}},
            {"xla": True},
        ],
    )
    def test_refuses(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="validation error"):
            TrainParameters.model_validate(wrong)

    def test_round_trips_through_json(self) -> None:
        parameters = TrainParameters(schedule=Cosine(), model=Mlp(), class_weights={"a": 2.0})
        assert TrainParameters.model_validate_json(parameters.model_dump_json()) == parameters
        assert math.isclose(parameters.pixels.rescale, 1 / 255)
