"""Distillation: the loss is Hinton's, the student comes nearer to its teacher, and keeps nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from millrace.components.train.spec import train
from millrace.errors import DataError
from millrace.testing import Ran, run_component
from millrace.training.distillation import distil, divergence
from millrace.training.models import build_model
from millrace.training.options.reuse import Teacher
from millrace.training.parameters import TrainParameters
from millrace.training.reuse import find
from tests.components.train_data import picture, write_picture_records
from tests.training.reuse_data import SCHEMA, context_in, loaded, renamed

STUDENT = {"kind": "mlp", "units": [4], "dropout": 0}
RUN = {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "early_stopping": None}


def fit(folder: Path, records: Path, inputs: dict[str, Any] | None = None, **parameters: Any) -> Ran:
    return run_component(
        train, TrainParameters.model_validate({**RUN, **parameters}), folder, records=records, **(inputs or {})
    )


def softmax(logits: Any) -> Any:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_records(tmp_path_factory.mktemp("records"), train=(60, 60, 60))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, records: Path) -> Path:
    model = {"kind": "mlp", "units": [32, 32], "dropout": 0}
    ran = fit(tmp_path_factory.mktemp("teacher"), records, model=model, label_smoothing=0.3)
    assert ran.metrics["accuracy"] > 0.9
    return ran.outputs["model"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, records: Path, teacher: Path) -> Ran:
    choice = {"model": str(teacher), "alpha": 1.0, "temperature": 2.0}
    return fit(tmp_path_factory.mktemp("taught"), records, model=STUDENT, teacher=choice)


class TestDivergence:
    teacher = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
    student = np.array([[0.5, 0.5, -2.0], [1.0, -1.0, 0.0]], np.float32)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_is_that_of_softened_answers(self, temperature: float) -> None:
        wanted, given = softmax(self.teacher / temperature), softmax(self.student / temperature)
        found = divergence(softmax(self.teacher), softmax(self.student), temperature)
        assert np.allclose(found, (wanted * np.log(wanted / given)).sum(axis=-1), atol=1e-6)

    @pytest.mark.parametrize("scale", [1.0, 20.0])
    def test_gradients_are_those_of_the_logits(self, scale: float) -> None:
        logits: Any = tf.Variable(tf.constant(self.student * scale))
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(divergence(softmax(self.teacher), tf.nn.softmax(logits), 4.0))
        expected = (softmax(logits.numpy() / 4) - softmax(self.teacher / 4)) / 4
        found: Any = tape.gradient(total, logits)
        assert np.allclose(found, expected, atol=1e-6)

    def test_answers_that_are_certain(self) -> None:
        certain = tf.constant([[1.0, 0.0, 0.0]])
        assert float(divergence(certain, certain, 4.0)[0]) == pytest.approx(0, abs=1e-6)
        assert np.isfinite(divergence(certain, tf.constant([[0.0, 1.0, 0.0]]), 1.0).numpy()).all()


class TestStudents:
    def test_answer_more_like_their_teachers(self, tmp_path: Path, records: Path, teacher: Path, taught: Ran) -> None:
        alone = fit(tmp_path, records, model=STUDENT)
        images = np.stack([picture(label, 200 + number) for label in range(3) for number in range(20)])
        wanted, given, other = (
            loaded(folder)(images).numpy() for folder in (teacher, taught.outputs["model"], alone.outputs["model"])
        )
        distances = [(wanted * np.log(wanted / one)).sum(axis=-1).mean() for one in (given, other)]
        assert distances[0] < distances[1] / 2
        assert taught.metrics["accuracy"] > 0.8

    def test_keep_nothing_of_them(self, teacher: Path, taught: Ran) -> None:
        model = loaded(taught.outputs["model"])
        assert model.count_params() == 64 * 4 + 4 + 4 * 3 + 3
        assert (taught.outputs["model"] / "model.keras").stat().st_size < (teacher / "model.keras").stat().st_size

    def test_validation_is_by_the_labels_alone(self, taught: Ran) -> None:
        images = np.stack([picture(label, 60 + number) for label in range(3) for number in range(6)])
        answers = loaded(taught.outputs["model"])(images).numpy()
        losses = -np.log(answers[np.arange(18), np.repeat(range(3), 6)])
        assert losses.mean() == pytest.approx(taught.metrics["loss"], rel=1e-4)
        history = (taught.outputs["model"].parents[1] / "checkpoints" / "history.jsonl").read_text().splitlines()
        assert json.loads(history[-1])["loss"] < 0.5

    def test_parts_of_the_loss_add_up(self, tmp_path: Path, teacher: Path) -> None:
        found = find(str(teacher), None, context_in(tmp_path), title="a teacher")
        images = np.stack([picture(number % 3, number) for number in range(6)]).astype(np.float32)
        labels, weights = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]], np.arange(1, 7, dtype=np.float32)

        def loss(alpha: float, *, training: bool = True) -> float:
            model = build_model(TrainParameters.model_validate({"model": STUDENT}), SCHEMA, policy="float32")
            model.compile(optimizer="sgd", loss="categorical_crossentropy")
            distil(model, Teacher(model="m", alpha=alpha, temperature=2.0), found, SCHEMA)
            answers = model(images)
            return float(model.compute_loss(images, labels, answers, weights, training=training))

        hard, soft = loss(0.5, training=False), loss(1.0)
        assert loss(0.25) == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-5)
        student = build_model(TrainParameters.model_validate({"model": STUDENT}), SCHEMA, policy="float32")
        apart = divergence(loaded(teacher)(images), student(images), 2.0).numpy()
        assert soft == pytest.approx(4 * (weights * apart).mean(), rel=1e-5)

    def test_of_other_classes_are_refused(self, tmp_path: Path, teacher: Path) -> None:
        other = renamed(write_picture_records(tmp_path / "records"), ("a", "b", "c"))
        with pytest.raises(DataError, match=r"the input 'teacher' .* different classes"):
            fit(tmp_path / "task", other, {"teacher": teacher}, model=STUDENT)
