"""A look into the network while it learns: what it sees, what it says, and that it changes nothing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.components.train.spec import TrainParameters, train
from millrace.runtime.context import Context
from millrace.testing import run_component
from millrace.training.debug import Look, Probe
from millrace.training.diagnosis import about_classes, about_history, about_look, look_charts
from millrace.training.options.debug import Debug
from millrace.training.options.models import Cnn
from millrace.training.options.schedules import EarlyStopping
from millrace.training.profile import Clock
from millrace.training.schedule import should_stop
from millrace.training.watch import Seen, Watch
from tests.components.train_data import write_picture_records

X = tf.constant(np.random.default_rng(0).normal(size=(8, 5)), tf.float32)
Y = tf.one_hot([0, 1, 2, 0, 1, 2, 0, 1], 3)


def network(*hidden: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, activation="relu", name="inside")], name="block")
    return _compiled([keras.layers.Dense(4, name="first"), *hidden, inner, keras.layers.Dropout(0.5)])


def _compiled(layers: list[keras.layers.Layer]) -> keras.Model:
    end = keras.layers.Dense(3, activation="softmax", name="end")
    model = keras.Sequential([keras.Input((5,)), *layers, end])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="categorical_crossentropy", metrics=["accuracy"])
    return model


class TestProbe:
    def test_figures_are_those_of_a_step(self) -> None:
        model = _compiled([keras.layers.Dense(4, activation="relu", name="first")])
        look = Probe(model, (X, Y)).look()
        with tf.GradientTape() as tape:
            loss: Any = model.compute_loss(x=X, y=Y, y_pred=model(X, training=True))
        kernel, bias = tape.gradient(loss, model.get_layer("first").trainable_weights)
        together = np.concatenate([kernel.numpy().ravel(), bias.numpy().ravel()])
        assert look["first"]["gradient"] == pytest.approx(np.abs(together).mean(), rel=1e-5)
        assert look["first"]["gradient_norm"] == pytest.approx(np.linalg.norm(together), rel=1e-5)
        hidden = np.maximum(X @ model.get_layer("first").kernel + model.get_layer("first").bias, 0)
        assert look["first"]["activation"] == pytest.approx(hidden.std(), rel=1e-5)
        assert look["first"]["dead"] == pytest.approx((hidden <= 0).all(axis=0).mean())
        assert "dead" not in look["end"]

    def test_layers_of_nested_models_have_their_names(self) -> None:
        assert {"first", "block/inside", "end"} <= set(Probe(network(), (X, Y)).look())

    def test_nothing_is_changed(self) -> None:
        model = network(keras.layers.BatchNormalization())
        before = [np.array(variable) for variable in (*model.variables, *model.metrics_variables)]
        probe = Probe(model, (X, Y))
        assert probe.look() == probe.look()
        after = [np.array(variable) for variable in (*model.variables, *model.metrics_variables)]
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))

    def test_small_gradients_in_float16_are_seen(self) -> None:
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = _compiled([keras.layers.Dense(4, name="first")])
        finally:
            keras.config.set_dtype_policy("float32")
        figures = Probe(model, (X, Y, tf.fill([8], 1e-6))).look()
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert 1e-9 < figures["first"]["gradient"] < 1e-5


def dead(model: keras.Model) -> None:
    model.get_layer("block").get_layer("inside").bias.assign(np.full(6, -1e3))


def vanished(model: keras.Model) -> None:
    model.get_layer("end").kernel.assign(np.zeros((6, 3)))


def exploded(model: keras.Model) -> None:
    model.get_layer("first").kernel.assign(np.full((5, 4), np.nan))


class TestRules:
    @pytest.mark.parametrize(
        ("harm", "rule"),
        [
            (dead, "dead ReLU block/inside"),
            (vanished, "vanishing gradient first"),
            (exploded, "exploding gradient block/inside"),
        ],
    )
    def test_about_layers(self, harm: Callable[[keras.Model], None], rule: str) -> None:
        model = network()
        probe = Probe(model, (X, Y))
        assert rule not in dict(about_look(Debug(), probe.look(), 1))
        harm(model)
        assert rule in dict(about_look(Debug(), probe.look(), 2))

    def test_gradients_that_are_small_everywhere_have_not_vanished(self) -> None:
        look: Look = {
            "first": {"gradient": 1e-9, "gradient_norm": 1e-8},
            "end": {"gradient": 1e-8, "gradient_norm": 1e-7},
        }
        assert not list(about_look(Debug(), look, 1))

    def test_about_classes(self) -> None:
        (found,) = about_classes(Debug(), {"rare": 5, "common": 51})
        assert found[1].startswith("class imbalance: 'common' has 51 train records, 'rare' has 5")
        assert not list(about_classes(Debug(), {"rare": 5, "common": 50}))

    @pytest.mark.parametrize(
        ("loss", "validation", "rules"),
        [
            ([1.0, 0.8, 0.6, 0.5], [1.0, 0.9, 0.8, 0.7], []),
            ([1.0, 1.1, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], ["loss not decreasing"]),
            ([1.0, 0.5, 0.3, 0.1], [1.0, 0.9, 0.9, 0.9], ["overfit"]),
            ([1.0, 0.5, 0.3, 0.1], [1.0, 0.7, 0.9, 0.9], []),
            ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], []),
        ],
    )
    def test_about_epochs(self, loss: list[float], validation: list[float], rules: list[str]) -> None:
        history = [{"loss": one, "validation_loss": other} for one, other in zip(loss, validation, strict=True)]
        assert [what for what, _ in about_history(Debug(), history)] == rules

    def test_end_when_training_and_validation_part(self) -> None:
        stopping = EarlyStopping(patience=2, max_gap=0.1)

        def stops(*validation: float) -> bool:
            rows = [
                {"accuracy": 0.9, "validation_accuracy": value, "validation_loss": -index}
                for index, value in enumerate(validation)
            ]
            return should_stop(stopping, rows)

        assert stops(0.85, 0.7, 0.7)
        assert not stops(0.7, 0.85)
        assert not stops(0.7)

    def test_charts_leave_out_what_is_no_number(self) -> None:
        looks: list[Look] = [{"a": {"gradient_norm": 1.0}}, {"a": {"gradient_norm": float("nan")}}]
        (chart,) = look_charts([10, 20], looks)
        assert chart.curves[0].x == (10.0,)


def test_a_run_tells_what_it_saw_and_learns_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = write_picture_records(tmp_path / "records")
    plain = TrainParameters(model=Cnn(filters=(4,)), epochs=3, batch_size=16)
    watched = plain.model_copy(update={"debug": Debug(every_steps=5, imbalance=2), "profile": True})
    models, charts = [], []
    for name, parameters in (("plain", plain), ("watched", watched)):
        outputs = run_component(train, parameters, tmp_path / name, records=records).outputs
        models.append((outputs["model"] / "model.keras").read_bytes())
        charts.append({chart["name"]: chart for chart in json.loads((outputs["metrics"] / "charts.json").read_bytes())})
    assert models[0] == models[1]
    assert set(charts[1]) - set(charts[0]) == {
        "warnings",
        "gradient_norm_by_step",
        "activation_by_step",
        "dead_by_step",
        "time_by_epoch",
    }
    assert charts[1]["gradient_norm_by_step"]["curves"][0]["x"] == [5.0, 10.0]
    assert [curve["name"] for curve in charts[1]["time_by_epoch"]["curves"]] == [
        "waiting for input",
        "computing",
        "adding up over ranks",
    ]
    assert all(0 <= value < 10_000 for curve in charts[1]["time_by_epoch"]["curves"] for value in curve["y"])
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        sum(bool(re.match("class imbalance: 'east' has 30 train records, 'west' has 14", line)) for line in told) == 1
    )


def test_calls_that_compile_are_not_measured() -> None:
    clock, log = Clock(), logging.getLogger("millrace")
    batches = iter(tf.data.Dataset.from_tensors(1.0).repeat())

    def take(count: int) -> bool:
        for _ in range(count):
            clock.take(lambda given: {"loss": next(given)}, batches)  # a function of its own each time
        return clock.finish(1, log) is not None

    assert not take(50)

    def step(given: Any) -> dict[str, Any]:
        return {"loss": next(given)}

    def measured() -> bool:
        clock.take(step, batches)
        return clock.finish(1, log) is not None

    assert [measured(), measured()] == [False, True]
    clock.expect_compiling()
    assert [measured(), measured()] == [False, True]


def test_many_looks_are_thinned(tmp_path: Path) -> None:
    watch = Watch(Debug(every_steps=1), network(), (X, Y), Context(scratch=tmp_path, checkpoints=tmp_path))
    seen = Seen()
    for step in range(1, 402):
        watch.after_step(seen, step - 1, step)
    assert len(seen.steps) == len(seen.looks) == 200
    assert seen.steps[-1] == 400
