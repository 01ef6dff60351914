"""The ways to train that are compared: all take the same batches, with the same network, loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.training.stopwatch import Stopwatch
from millrace.runtime.context import Context
from millrace.specs import Logs, Metrics, Model, Records
from millrace.training.data import inspect, training_batches
from millrace.training.models import build_model
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.schedule import make_optimizer
from millrace.training.tensor_parallel import loss_and_accuracy
from millrace.training.train import train

__all__ = ["TimedContext", "fit", "mirrored", "train_by_component"]

_WARM_UP = 8


@dataclass
class TimedContext(Context):
    """Stops the time of each step that is reported."""

    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch(_WARM_UP))

    def progress(self, done: int, total: int | None = None, unit: str = "items") -> None:
        """What the component does after each step."""
        super().progress(done, total, unit)
        self.stopwatch.step(done)


def train_by_component(parameters: TrainParameters, records: Path, context: Context) -> None:
    """Train as the component does, alone or as one of several ranks."""
    folders = {name: context.scratch / name for name in ("model", "metrics", "logs")}
    for folder in folders.values():
        folder.mkdir()
    train(
        parameters,
        TrainInputs(records=Records(location=records)),
        TrainOutputs.model_construct(
            model=Model(location=folders["model"]),
            metrics=Metrics(location=folders["metrics"]),
            logs=Logs(location=folders["logs"]),
        ),
        context,
    )


def fit(parameters: TrainParameters, records: Path) -> None:
    """Train by Keras' own `fit`, with nothing beside the steps."""
    _configure(parameters)
    data = inspect(records, parameters)
    model = build_model(parameters, data.schema, policy="float32", statistics=None)
    loss, accuracy = loss_and_accuracy(None, parameters.label_smoothing)
    model.compile(
        optimizer=make_optimizer(parameters, _steps(parameters)), loss=loss, metrics=[accuracy], jit_compile=False
    )
    stopwatch = Stopwatch(_WARM_UP)
    timer = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stopwatch.step(batch + 1))
    batches = training_batches(data, parameters, 0)
    model.fit(batches, steps_per_epoch=_steps(parameters), verbose=0, callbacks=[timer])


def mirrored(parameters: TrainParameters, records: Path) -> None:
    """Train by MultiWorkerMirroredStrategy, as one of the workers in TF_CONFIG.

    Keras 3 can't `fit` with it, so the steps are written out; what `fit` would send beside the gradients is left out.
    """
    _configure(parameters)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    data = inspect(records, parameters)
    plain = build_model(parameters, data.schema, policy="float32", statistics=None)  # clears Keras' state and the scope
    with strategy.scope():
        model = keras.models.clone_model(plain)
        loss, accuracy = loss_and_accuracy(None, parameters.label_smoothing)
        mean = keras.metrics.Mean()
        optimizer = make_optimizer(parameters, _steps(parameters))
        optimizer.build(model.trainable_variables)

    def of_worker(worker: Any) -> Any:
        return training_batches(data, parameters.model_copy(update={"seed": worker.input_pipeline_id}), 0)

    batches = iter(strategy.distribute_datasets_from_function(of_worker))

    def on_worker(batch: tuple[Any, Any]) -> Any:
        examples, targets = batch
        with tf.GradientTape() as tape:
            predicted = model(examples, training=True)
            value = loss(targets, predicted)
            share = value / strategy.num_replicas_in_sync
        gradients = tape.gradient(share, model.trainable_weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        accuracy.update_state(targets, predicted)
        mean.update_state(value)
        return value

    def step(iterator: Any) -> Any:
        return strategy.run(on_worker, args=(next(iterator),))

    take, stopwatch = tf.function(step), Stopwatch(_WARM_UP)
    for number in range(_steps(parameters)):
        take(batches)
        stopwatch.step(number + 1)


def _configure(parameters: TrainParameters) -> None:
    """As the component does for one core."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    if parameters.deterministic:
        tf.config.experimental.enable_op_determinism()


def _steps(parameters: TrainParameters) -> int:
    return parameters.steps_per_epoch or 1
