"""Fine-tuning: what learns in which phase and how fast, new heads, and the same bytes whatever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.components.train.spec import train
from millrace.errors import ConfigError, DataError
from millrace.runtime.task import GivenArtifact, TaskRequest, launch
from millrace.testing import Ran, run_component
from millrace.training.finetuning import last_phase, network, of_phase, phases
from millrace.training.models import build_model
from millrace.training.options.models import Application, Mlp
from millrace.training.options.optimizers import AdamW, Sgd
from millrace.training.options.reuse import FineTuning, Teacher
from millrace.training.options.schedules import Cosine, EarlyStopping, ReduceOnPlateau
from millrace.training.parameters import TrainParameters
from millrace.training.reuse import find
from millrace.training.schedule import make_optimizer
from tests.components.test_train_hosts import started
from tests.components.train_data import picture, write_picture_records
from tests.training.reuse_data import SCHEMA, SMALL, context_in, loaded, renamed, write_model

layers = keras.layers
NORMS = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "base")


def tune(folder: Path, records: Path, base: Path, **parameters: Any) -> Ran:
    given = {"epochs": 2, "batch_size": 16, "early_stopping": None, **parameters}
    return run_component(train, TrainParameters.model_validate(given), folder, records=records, base=base)


def changed(before: Any, after: Any) -> set[str]:
    """Paths of the weights that are no longer the same to the bit."""
    pairs = zip(before.weights, after.weights, strict=True)
    return {old.path for old, new in pairs if not np.array_equal(old.numpy(), new.numpy())}


def prepared(tuning: FineTuning, model: Any = None, **parameters: Any) -> tuple[Any, Any]:
    """A compiled network and its phases."""
    chosen = TrainParameters(fine_tuning=tuning, learning_rate=0.5, epochs=9, model=SMALL, **parameters)
    model = build_model(chosen, SCHEMA, policy="float32") if model is None else model
    model.compile(optimizer=make_optimizer(of_phase(chosen, 0), 4), loss="categorical_crossentropy")
    made = phases(model, chosen, 4)
    assert made is not None
    made.build()
    return model, made


class TestPhases:
    def test_first_only_the_head_learns(self, tmp_path: Path, records: Path, base: Path) -> None:
        ran = tune(tmp_path, records, base, fine_tuning={"frozen_epochs": 1, "unfreeze": 0, "head": "keep"})
        assert changed(loaded(base), loaded(ran.outputs["model"])) == {"logits/kernel", "logits/bias"}

    def test_then_what_is_above_the_cut(self, tmp_path: Path, records: Path, base: Path) -> None:
        ran = tune(tmp_path, records, base, fine_tuning={"frozen_epochs": 1, "unfreeze": 2})
        told = changed(loaded(base), loaded(ran.outputs["model"]))
        assert told == {"conv2d_1/kernel", "dense/kernel", "dense/bias", "logits/kernel", "logits/bias"}
        rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "checkpoints/history.jsonl").open()]
        assert rates == pytest.approx([1e-3, 1e-4])

    def test_batch_normalisation_learns_when_asked(self, tmp_path: Path, records: Path, base: Path) -> None:
        tuning = {"unfreeze": "conv2d_1", "batch_norm": "train"}
        ran = tune(tmp_path, records, base, epochs=1, fine_tuning=tuning)
        told = changed(loaded(base), loaded(ran.outputs["model"]))
        assert {path for path in told if "norm" in path} == {f"batch_normalization_1/{name}" for name in NORMS}
        assert "conv2d_1/kernel" in told

    def test_one_phase_begins_at_the_full_rate(self) -> None:
        parameters = TrainParameters(learning_rate=0.2, epochs=9, fine_tuning=FineTuning(model="m"))
        assert of_phase(parameters, 0).learning_rate == 0.2
        two = parameters.model_copy(update={"fine_tuning": FineTuning(model="m", frozen_epochs=3)})
        seen = [(of_phase(two, epoch).learning_rate, of_phase(two, epoch).epochs) for epoch in (2, 3)]
        assert seen == [(0.2, 3), (pytest.approx(0.02), 6)]

    def test_optimizer_begins_anew(self) -> None:
        model, made = prepared(FineTuning(frozen_epochs=2, learning_rate=0.125), schedule=ReduceOnPlateau())
        assert made.enter(0, begins=True)
        assert not made.enter(1, begins=True)
        start = [variable.numpy() for variable in model.optimizer.variables]
        weights = model.trainable_variables
        assert [weight.path for weight in weights] == ["logits/kernel", "logits/bias"]
        model.optimizer.apply_gradients([(tf.ones(weight.shape), weight) for weight in weights])
        assert made.enter(2, begins=True)
        now = [variable.numpy() for variable in model.optimizer.variables]
        differ = [old.tolist() for old, new in zip(start, now, strict=True) if not np.array_equal(old, new)]
        assert differ == [0.5]
        assert float(model.optimizer.learning_rate) == 0.125
        assert len(model.trainable_variables) > 2

    def test_goes_on_in_the_second_phase(self) -> None:
        model, made = prepared(FineTuning(frozen_epochs=2))
        model.optimizer.iterations.assign(7)
        made.enter(4, begins=False)
        assert int(model.optimizer.iterations) == 7

    def test_patience_counts_in_the_last_phase(self, tmp_path: Path, records: Path, base: Path) -> None:
        tuning = {"frozen_epochs": 4, "unfreeze": 0, "learning_rate": 1e-9}
        stopping = EarlyStopping(patience=2, monitor="loss")
        given = {"learning_rate": 1e-9, "fine_tuning": tuning, "early_stopping": stopping, "steps_per_epoch": 1}
        ran = tune(tmp_path, records, base, epochs=20, **given)
        assert 4 + 3 <= ran.metrics["epochs"] < 20

    def test_history_of_a_phase(self) -> None:
        parameters = TrainParameters(epochs=9, fine_tuning=FineTuning(model="m", frozen_epochs=2))
        rows = [{"epoch": float(epoch)} for epoch in range(1, 5)]
        assert [len(last_phase(parameters, rows[:count])) for count in range(5)] == [0, 1, 0, 1, 2]


class TestLayers:
    def learning(self, tuning: FineTuning, model: Any = None) -> list[str]:
        model, made = prepared(tuning, model)
        made.enter(5, begins=True)
        return list(dict.fromkeys(weight.path.rpartition("/")[0] for weight in model.trainable_variables))

    def nested(self) -> Any:
        """Backbones of two blocks in a model, with two layers on top."""
        inner = keras.Input((4,))
        x = inner
        for name in ("block_1_a", "block_1_b", "block_10_a"):
            x = layers.BatchNormalization(name=f"{name}_bn")(layers.Dense(4, name=name)(x))
        backbone = keras.Model(inner, x, name="backbone")
        outer = keras.Input((4,))
        x = layers.Dense(4, name="pooler")(backbone(outer))
        return keras.Model(outer, layers.Dense(3, activation="softmax", name="classes")(x))

    @pytest.mark.parametrize(
        ("unfreeze", "expected"),
        [
            (0, ["pooler", "classes"]),
            (1, ["block_10_a", "pooler", "classes"]),
            ("block_10", ["block_10_a", "pooler", "classes"]),
            ("block_1_b", ["block_1_b", "block_10_a", "pooler", "classes"]),
            ("block_1", ["block_1_a", "block_1_b", "block_10_a", "pooler", "classes"]),
            ("backbone", ["block_1_a", "block_1_b", "block_10_a", "pooler", "classes"]),
            ("all", ["block_1_a", "block_1_b", "block_10_a", "pooler", "classes"]),
        ],
    )
    def test_of_a_nested_backbone(self, unfreeze: int | str, expected: list[str]) -> None:
        assert self.learning(FineTuning(unfreeze=unfreeze, frozen_epochs=1), self.nested()) == expected

    def test_that_are_not_there(self) -> None:
        with pytest.raises(ConfigError, match="no block or layer 'block_2': did you mean 'block_1_"):
            prepared(FineTuning(unfreeze="block_2"), self.nested())
        with pytest.raises(ConfigError, match="unfreeze=4, but below the head there are 3 layers with weights"):
            prepared(FineTuning(unfreeze=4), self.nested())
        with pytest.raises(ConfigError, match=r"fine_tuning\.multipliers: the network has no block"):
            prepared(FineTuning(multipliers={"stem": 0.1}), self.nested())

    def test_rates_halve_with_each_layer(self) -> None:
        steps = self.steps(FineTuning(layer_decay=0.5, batch_norm="train"), Sgd(momentum=0))
        assert steps == {
            "block_1_a": 0.5 / 8, "block_1_a_bn": 0.5 / 8, "block_1_b": 0.5 / 4, "block_1_b_bn": 0.5 / 4,
            "block_10_a": 0.5 / 2, "block_10_a_bn": 0.5 / 2, "pooler": 0.5, "classes": 0.5,
        }  # fmt: skip

    def test_rates_by_block(self) -> None:
        tuning = FineTuning(multipliers={"block_1": 0.25, "block_1_b": 0.5, "classes": 2}, batch_norm="train")
        steps = self.steps(tuning, Sgd(momentum=0.5))
        assert steps["block_1_a"] == steps["block_1_a_bn"] == 0.5 * 0.25
        assert (steps["block_1_b"], steps["block_10_a"], steps["pooler"], steps["classes"]) == (0.25, 0.5, 0.5, 1.0)

    def test_weight_decay_follows_the_rates(self) -> None:
        tuning = FineTuning(multipliers={"block_10": 0.5})
        steps = self.steps(tuning, AdamW(weight_decay=0.25), gradient=0.0, start=8.0)
        assert (steps["block_10_a"], steps["pooler"]) == (0.5, 1.0)

    def steps(self, tuning: FineTuning, optimizer: Any, gradient: float = 1.0, start: float = 0.0) -> dict[str, float]:
        """How far a step of the same gradient everywhere takes the weights of each layer."""
        model, made = prepared(tuning, self.nested(), optimizer=optimizer)
        made.enter(0, begins=True)
        weights = model.trainable_variables
        for weight in weights:
            weight.assign(tf.fill(weight.shape, start))

        def take() -> None:
            model.optimizer.apply_gradients([(tf.fill(weight.shape, gradient), weight) for weight in weights])

        tf.function(take)()
        return {weight.path.rpartition("/")[0]: start - float(np.ravel(weight.numpy())[0]) for weight in weights}


class TestHeads:
    def test_new_classes_are_learned_sooner_than_from_scratch(self, tmp_path: Path) -> None:
        known = write_picture_records(tmp_path / "known", train=(60, 60, 60))
        run = {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "early_stopping": None}
        anew = {**run, "model": Mlp(units=(16, 16), dropout=0)}
        first = run_component(train, TrainParameters.model_validate(anew), tmp_path / "first", records=known)
        assert first.metrics["accuracy"] > 0.9
        few = {"epochs": 4, "batch_size": 8, "learning_rate": 0.03}
        other = renamed(write_picture_records(tmp_path / "other", train=(8, 8, 8)), ("links", "oben", "rechts"))
        scratch = run_component(
            train, TrainParameters.model_validate({**anew, **few}), tmp_path / "scratch", records=other
        )
        tuned = tune(tmp_path / "tuned", other, first.outputs["model"], **few, fine_tuning={"unfreeze": 0})
        assert tuned.metrics["accuracy"] > 0.9
        assert tuned.metrics["loss"] < scratch.metrics["loss"] / 2
        assert json.loads((tuned.outputs["model"] / "model.json").read_text())["name"] == "mlp"
        served = tf.saved_model.load(tuned.outputs["model"] / "saved_model").signatures["pixels"]
        assert served(images=tf.constant(picture(0, 1)[None]))["labels"].numpy()[0] == b"links"

    def test_inside_of_a_custom_network(self, tmp_path: Path) -> None:
        inner = keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5, name="a"), layers.Dense(3, name="b")]
        )
        pixels = keras.Input((8, 8, 1))
        scores = layers.Activation("softmax")(inner(layers.Rescaling(1 / 255)(pixels)))
        folder = write_model(tmp_path / "custom", model=keras.Model(pixels, scores))
        schema = SCHEMA.model_copy(update={"classes": ("one", "two")})
        made = self.network(FineTuning(), folder, schema)
        assert made.output_shape == (None, 2)
        picked = loaded(folder).layers[2].get_layer("a").get_weights()
        assert all(np.array_equal(one, other) for one, other in zip(made.get_weights()[:2], picked, strict=True))

    def test_that_can_not_be_told(self, tmp_path: Path, base: Path) -> None:
        (tmp_path / "foreign.keras").write_bytes((base / "model.keras").read_bytes())
        with pytest.raises(ConfigError, match=r"no model\.json beside it, so its classes are not known"):
            self.network(FineTuning(), tmp_path / "foreign.keras", SCHEMA)
        assert self.network(FineTuning(head="keep"), tmp_path / "foreign.keras", SCHEMA).output_shape == (None, 3)

    def test_that_give_no_probabilities(self, tmp_path: Path) -> None:
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
        folder = write_model(tmp_path / "scores", model=model)
        with pytest.raises(DataError, match="does not answer with probabilities"):
            self.network(FineTuning(), folder, SCHEMA)

    def test_of_a_backbone_alone(self, tmp_path: Path) -> None:
        schema = SCHEMA.model_copy(update={"height": 32, "width": 32})
        choice = Application(name="MobileNetV2", weights="w.h5")
        parameters = TrainParameters(model=choice, fine_tuning=FineTuning(unfreeze="block_16", frozen_epochs=1))
        model = build_model(parameters, schema, policy="float32")
        model.compile(optimizer="sgd", loss="categorical_crossentropy")
        made = phases(model, parameters, 1)
        assert made is not None
        made.build()
        made.enter(0, begins=True)
        assert len(model.trainable_variables) == 2
        made.enter(1, begins=True)
        names = [weight.path for weight in model.trainable_variables]
        assert names[0] == "block_16_expand/kernel"
        assert not any("BN" in name for name in names)

    def test_mixed_precision(self, tmp_path: Path, records: Path, base: Path) -> None:
        ran = tune(tmp_path, records, base, epochs=1, amp=True, fine_tuning={"head": "new"})
        model = loaded(ran.outputs["model"])
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
        assert model(np.zeros((1, 8, 8, 1))).numpy().sum() == pytest.approx(1, abs=1e-5)

    def network(self, tuning: FineTuning, place: Path, schema: Any) -> Any:
        found = find(str(place), None, context_in(place.with_name("work")), title="a model")
        return network(TrainParameters(fine_tuning=tuning), found, schema, "float32")


@pytest.mark.slow
class TestInterruptions:
    def request(self, directory: Path, records: Path, base: Path) -> Path:
        parameters = {
            "fine_tuning": {"frozen_epochs": 8, "unfreeze": 2, "layer_decay": 0.5},
            "teacher": {"model": str(base)},
            "schedule": {"kind": "cosine", "warmup_epochs": 1},
            "epochs": 20,
            "batch_size": 8,
            "checkpoint_steps": 3,
            "early_stopping": None,
        }
        TaskRequest(
            name="train",
            component=train.spec.entry,
            parameters=TrainParameters.model_validate(parameters).model_dump(mode="json"),
            inputs={"records": (GivenArtifact(path=records),), "base": (GivenArtifact(path=base),)},
        ).write(directory)
        return directory

    def interrupt(self, directory: Path, number: int, after: int) -> subprocess.Popen[bytes]:
        process = launch(directory)
        history = directory / "checkpoints" / "history.jsonl"
        while process.poll() is None and not (history.exists() and len(history.read_text().splitlines()) >= after):
            time.sleep(0.005)
        process.send_signal(number)
        process.wait(60)
        return process

    def test_in_either_phase_end_with_the_same_bytes(self, tmp_path: Path, records: Path, base: Path) -> None:
        whole = self.request(tmp_path / "whole", records, base)
        assert launch(whole).wait(120) == 0, (whole / "log.txt").read_text()
        killed = self.request(tmp_path / "killed", records, base)
        assert self.interrupt(killed, signal.SIGTERM, after=2).returncode == 143
        self.check_frozen(killed, base)
        assert self.interrupt(killed, signal.SIGKILL, after=10).returncode == -signal.SIGKILL
        assert launch(killed).wait(120) == 0, (killed / "log.txt").read_text()
        assert (killed / "log.txt").read_text().count("going on from step") == 2
        for file in ("model/model.keras", "metrics/metrics.json", "metrics/charts.json"):
            assert (whole / "outputs" / file).read_bytes() == (killed / "outputs" / file).read_bytes(), file

    def check_frozen(self, directory: Path, base: Path) -> None:
        with np.load(directory / "checkpoints" / "checkpoint.npz") as stored:
            arrays = [stored[f"variable_{index}"] for index in range(len(loaded(base).weights))]
        for weight, value in zip(loaded(base).weights, arrays, strict=True):
            assert np.array_equal(weight.numpy(), value) == (not weight.path.startswith("logits")), weight.path


@pytest.mark.slow
def test_two_hosts_train_as_one(tmp_path: Path, records: Path, base: Path) -> None:
    parameters = TrainParameters(
        fine_tuning=FineTuning(model=str(base), frozen_epochs=2, unfreeze="conv2d_1", layer_decay=0.5, head="new"),
        teacher=Teacher(model=str(base), alpha=0.5),
        schedule=Cosine(),
        learning_rate=0.01,
        epochs=4,
        batch_size=15,
        peer_seconds=100,
        strategy="multiworker",
    )
    single = parameters.model_copy(update={"strategy": "auto"})
    alone = run_component(train, single, tmp_path / "alone", records=records)
    with started(tmp_path / "group", records, parameters) as group:
        first = group.finish()
    pairs = zip(loaded(first / "outputs" / "model").weights, loaded(alone.outputs["model"]).weights, strict=True)
    for found, expected in pairs:
        assert np.allclose(found.numpy(), expected.numpy(), atol=1e-5), found.path
    rows = [(folder / "checkpoints/history.jsonl").read_text().splitlines() for folder in (first, tmp_path / "alone")]
    for row, other in zip(*rows, strict=True):
        assert json.loads(row) == pytest.approx(json.loads(other), abs=1e-5)
