"""Training as a task: what it leaves behind, and that no kill changes the outcome."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.components.train.spec import TrainParameters, train
from millrace.errors import ConfigError, DataError, TaskFailedError
from millrace.runtime.schemas import ModelCard
from millrace.runtime.task import GivenArtifact, TaskRequest, launch, read_result
from millrace.specs.charts import Lines, charts_adapter
from millrace.testing import Ran, run_component
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.options.models import Cnn, Custom, Mlp
from millrace.training.options.optimizers import Sgd
from millrace.training.options.schedules import EarlyStopping, ReduceOnPlateau
from tests.components.train_data import CLASSES, picture, write_picture_records
from tests.pictures import png

SMALL = Mlp(units=(16,), dropout=0)


def loaded(path: Path) -> Any:
    """A saved model, as anybody loads it."""
    return keras.models.load_model(path)


def run(tmp_path: Path, **parameters: Any) -> Ran:
    records = write_picture_records(tmp_path / "records", test=(5, 5, 5))
    chosen = TrainParameters.model_validate({"model": SMALL, "epochs": 2, "batch_size": 16, **parameters})
    return run_component(train, chosen, tmp_path / "task", records=records)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(
        tmp_path_factory.mktemp("trained"),
        epochs=12,
        learning_rate=0.01,
        test_steps=10,
        early_stopping=EarlyStopping(patience=20),
    )


@pytest.fixture(scope="module")
def digit_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_records(tmp_path_factory.mktemp("records"), train=(90, 60, 50))


class TestOutputs:
    def test_learns(self, trained: Ran) -> None:
        assert trained.metrics["accuracy"] > 0.9
        assert trained.metrics["test_accuracy"] > 0.9
        assert trained.metrics["epochs"] == 12

    def test_model_loads_with_plain_keras_and_has_the_reported_accuracy(self, trained: Ran) -> None:
        model = loaded(trained.outputs["model"] / "model.keras")
        images = np.stack([picture(label, 30 + number) for label in range(3) for number in range(6)])
        found = model.predict(images, verbose=0).argmax(axis=1)
        assert (found == np.repeat(range(3), 6)).mean() == pytest.approx(trained.metrics["accuracy"])

    def test_signatures_agree(self, trained: Ran) -> None:
        model = loaded(trained.outputs["model"] / "model.keras")
        served = tf.saved_model.load(trained.outputs["model"] / "saved_model").signatures
        images = np.stack([picture(label, 99) for label in range(3)])
        by_bytes = served["serving_default"](images=tf.constant([png(image) for image in images]))
        by_pixels = served["pixels"](images=tf.constant(images))
        expected = model(images).numpy()
        for answer in (by_bytes, by_pixels):
            assert np.allclose(answer["probabilities"], expected, atol=1e-6)
            assert [item.decode() for item in answer["labels"].numpy()] == [CLASSES[i] for i in expected.argmax(1)]
            assert answer["classes"].shape == (3, 3)

    def test_serving_takes_other_sizes_colours_and_transparency(self, trained: Ran) -> None:
        served = tf.saved_model.load(trained.outputs["model"] / "saved_model").signatures["serving_default"]
        large = np.kron(picture(1, 99), np.ones((5, 5, 1), np.uint8))
        colour = np.repeat(large, 3, axis=2)
        clear = np.concatenate([colour, np.full_like(large, 255)], axis=2)
        answer = served(images=tf.constant([png(large), png(colour), png(clear)]))["probabilities"].numpy()
        assert np.allclose(answer, answer[0], atol=0.02)

    def test_card_and_metadata(self, trained: Ran) -> None:
        card = ModelCard.model_validate_json((trained.outputs["model"] / "model.json").read_bytes())
        assert (card.format, card.name, card.records.classes) == ("keras", "mlp", CLASSES)
        assert card.parameters == 64 * 16 + 16 + 16 * 3 + 3
        assert trained.metadata["model"]["parameters"] == card.parameters

    def test_charts_mark_the_best_epoch(self, trained: Ran) -> None:
        charts = charts_adapter.validate_json((trained.outputs["metrics"] / "charts.json").read_bytes())
        loss = charts[0]
        assert isinstance(loss, Lines)
        assert [curve.name for curve in loss.curves] == ["train", "validation"]
        assert loss.marked_x == np.argmin(loss.curves[1].y) + 1
        assert min(loss.curves[1].y) == trained.metrics["loss"]

    def test_tensorboard_reads_the_logs(self, trained: Ran) -> None:
        files = sorted(trained.outputs["logs"].rglob("*tfevents*"))
        assert [file.parent.name for file in files] == ["train", "validation"]
        values = [
            (event.step, value.tag)
            for event in tf.compat.v1.train.summary_iterator(str(files[1]))
            for value in event.summary.value
        ]
        assert values[:2] == [(1, "epoch_loss"), (1, "epoch_accuracy")]
        assert len(values) == 24

    def test_history_is_there_for_a_watcher(self, trained: Ran) -> None:
        lines = (trained.outputs["model"].parents[1] / "checkpoints" / "history.jsonl").read_text().splitlines()
        assert len(lines) == 12
        assert {"epoch", "loss", "accuracy", "validation_loss", "validation_accuracy"} <= json.loads(lines[0]).keys()

    def test_prints_a_line_an_epoch(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(tmp_path)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch=")]
        assert len(lines) == 2
        assert " validation_accuracy=" in lines[1]


class TestKnobs:
    def test_early_stopping_restores_the_best_epoch(self, tmp_path: Path) -> None:
        ran = run(
            tmp_path,
            epochs=30,
            optimizer=Sgd(),
            learning_rate=1e-9,  # nothing improves after the first epoch
            early_stopping=EarlyStopping(patience=2, min_delta=0.01),
        )
        assert ran.metrics["epochs"] == 3

    def test_steps_per_epoch(self, tmp_path: Path) -> None:
        ran = run(tmp_path, steps_per_epoch=1, epochs=3, validation_steps=1, schedule=ReduceOnPlateau())
        assert ran.metrics["epochs"] == 3

    def test_a_study_is_put_over_the_parameters(self, tmp_path: Path) -> None:
        study = tmp_path / "study"
        study.mkdir()
        records = write_picture_records(tmp_path / "records")
        parameters = TrainParameters(model=SMALL, epochs=1)
        best = {"parameters": {"model.units": [5], "epochs": 2}, "value": 1.0}
        (study / "best.json").write_text(json.dumps(best))
        ran = run_component(train, parameters, tmp_path / "task", records=records, study=study)
        assert ran.metrics["epochs"] == 2
        assert ran.metadata["model"]["parameters"] == 64 * 5 + 5 + 5 * 3 + 3
        (study / "best.json").write_text(json.dumps({"parameters": {"model.filters": [5]}, "value": 1}))
        with pytest.raises(ConfigError, match=r"model.filters: unknown key for kind=mlp"):
            run_component(train, parameters, tmp_path / "task2", records=records, study=study)
        (study / "best.json").write_text("{}")
        with pytest.raises(DataError, match=r"not the best\.json of a study"):
            run_component(train, parameters, tmp_path / "task3", records=records, study=study)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (Custom(function="tests.components.test_train_parts:constant_model"), "loss became nan in epoch 1, step 1"),
            (SMALL, "weights became nan in epoch 1, step 4"),  # hidden by ReLU
        ],
    )
    def test_numbers_that_are_none_end_the_run(self, tmp_path: Path, model: Any, message: str) -> None:
        with pytest.raises(TaskFailedError, match=rf"{message} at learning rate 0\.001; try a smaller learning_rate"):
            run(tmp_path, model=model, pixels=Pixels(rescale=1e38))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "knobs",
        [
            {"amp": True},
            {"pixels": Pixels(normalise="featurewise")},
            {"label_smoothing": 0.1, "class_weights": "balanced", "gradient_clip_norm": 1.0},
        ],
    )
    def test_learns_with(self, tmp_path: Path, knobs: dict[str, Any]) -> None:
        ran = run(tmp_path, epochs=8, learning_rate=0.01, **knobs)
        assert ran.metrics["accuracy"] > 0.8
        model = loaded(ran.outputs["model"] / "model.keras")
        assert all(weight.dtype == "float32" for weight in model.weights)

    @pytest.mark.slow
    def test_xla(self, tmp_path: Path) -> None:
        parameters = TrainParameters(model=SMALL, epochs=2, batch_size=16, xla=True, deterministic=False)
        records = GivenArtifact(path=write_picture_records(tmp_path / "records"))
        directory = tmp_path / "task"
        TaskRequest(
            name="train",
            component=train.spec.entry,
            parameters=parameters.model_dump(mode="json"),
            inputs={"records": (records,)},
        ).write(directory)
        # in a process of its own: determinism, once switched on, stays
        assert launch(directory).wait(120) == 0, (directory / "log.txt").read_text()
        assert "jit_compile=False" not in (directory / "log.txt").read_text()

    def test_same_run_same_bytes(self, tmp_path: Path) -> None:
        first, second = (run(tmp_path / name) for name in ("a", "b"))
        for name in ("model.keras", "model.json"):
            assert (first.outputs["model"] / name).read_bytes() == (second.outputs["model"] / name).read_bytes()


@pytest.mark.slow
class TestKilled:
    """All of a run's randomness is used here: dropout, augmentation, shuffling, plateau, early stopping."""

    def request(self, records: Path, directory: Path, cache_mib: int = 512) -> Path:
        parameters = TrainParameters(
            model=Cnn(filters=(4,), units=(16,), dropout=0.5),
            augmentation=Augmentation(rotation_degrees=20, zoom=(0.8, 1.2)),
            schedule=ReduceOnPlateau(patience=1),
            epochs=12,
            batch_size=16,
            checkpoint_steps=5,
            cache_mib=cache_mib,
        )
        TaskRequest(
            name="train",
            component=train.spec.entry,
            parameters=parameters.model_dump(mode="json"),
            inputs={"records": (GivenArtifact(path=records),)},
        ).write(directory)
        return directory

    def finish(self, directory: Path) -> Path:
        assert launch(directory).wait(120) == 0, (directory / "log.txt").read_text()
        assert read_result(directory) is not None
        return directory / "outputs"

    def interrupt(self, directory: Path, number: int, after: int) -> subprocess.Popen[bytes]:
        process = launch(directory)
        history = directory / "checkpoints" / "history.jsonl"
        while process.poll() is None and not (history.exists() and len(history.read_text().splitlines()) >= after):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(number)
        process.wait(30)
        return process

    @pytest.mark.parametrize("cache_mib", [512, 0])
    def test_ends_with_the_same_bits(self, tmp_path: Path, digit_records: Path, cache_mib: int) -> None:
        whole = self.finish(self.request(digit_records, tmp_path / "whole", cache_mib))
        killed = self.request(digit_records, tmp_path / "killed", cache_mib)
        assert self.interrupt(killed, signal.SIGKILL, after=2).returncode == -signal.SIGKILL
        assert self.interrupt(killed, signal.SIGTERM, after=5).returncode == 143
        resumed = self.finish(killed)
        log = (killed / "log.txt").read_text()
        assert log.count("going on from step") == 2
        for file in ("model/model.keras", "metrics/metrics.json", "metrics/charts.json"):
            assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file
        for name in ("train", "validation"):
            file = f"logs/{name}/events.out.tfevents.0.millrace"
            assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file

    def test_a_checkpoint_of_other_parameters_is_not_used(self, tmp_path: Path, digit_records: Path) -> None:
        directory = self.request(digit_records, tmp_path / "task")
        self.interrupt(directory, signal.SIGTERM, after=1)
        request = TaskRequest.model_validate_json((directory / "task.json").read_bytes())
        changed = request.model_copy(update={"parameters": {**request.parameters, "seed": 7, "epochs": 1}})
        changed.write(directory)
        self.finish(directory)
        assert "other parameters or data" in (directory / "log.txt").read_text()
