"""Optimizers, learning rates and when to stop; what depends on the past is computed from the history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from millrace.errors import ConfigError
from millrace.training.options.schedules import Constant, Cosine, EarlyStopping, Exponential, Piecewise, ReduceOnPlateau
from millrace.training.parameters import TrainParameters

__all__ = ["Row", "best_epoch", "by_step", "learning_rate", "make_optimizer", "scaled", "should_stop"]

Row = Mapping[str, float]
"""One epoch's figures."""

_OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "lion": "Lion",
}


def make_optimizer(parameters: TrainParameters, steps_per_epoch: int) -> Any:
    """The Keras optimizer with its learning rate, or the part of it that depends on the step alone."""
    knobs = parameters.optimizer.model_dump(exclude={"kind"})
    if knobs.get("weight_decay") == 0:
        knobs["weight_decay"] = None
    kind = getattr(keras.optimizers, _OPTIMIZERS[parameters.optimizer.kind])
    return kind(
        learning_rate=by_step(parameters, steps_per_epoch), global_clipnorm=parameters.gradient_clip_norm, **knobs
    )


def scaled(parameters: TrainParameters, ranks: int, records: int) -> TrainParameters:
    """The parameters of a step of all ranks, of those of one rank, when they ask for `scaling`.

    A step of k times as many records goes along a gradient of 1/k of the variance: linear keeps what the same records
    change ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677)), sqrt keeps the variance of a step's change.

    Raises:
        ConfigError: When there are fewer train records than a step takes.
    """
    if parameters.scaling == "none":
        return parameters
    if parameters.batch_size * ranks > records:
        raise ConfigError(
            f"batch_size is {parameters.batch_size} on each of {ranks} ranks (scaling={parameters.scaling}), but there "
            f"are only {records} train records: choose {records // ranks} or less, or fewer ranks"
        )
    factor = ranks if parameters.scaling == "linear" else math.sqrt(ranks)
    change: dict[str, Any] = {
        "batch_size": parameters.batch_size * ranks,
        "learning_rate": parameters.learning_rate * factor,
    }
    if (tuning := parameters.fine_tuning) is not None and tuning.learning_rate is not None:
        change["fine_tuning"] = tuning.model_copy(update={"learning_rate": tuning.learning_rate * factor})
    return parameters.model_copy(update=change)


def by_step(parameters: TrainParameters, steps: int) -> Any:
    """What Keras makes the learning rate of: a function of the step, or a number."""
    schedule, highest = parameters.schedule, parameters.learning_rate
    warmup = round(schedule.warmup_epochs * steps)
    schedules = keras.optimizers.schedules
    if isinstance(schedule, Cosine):
        warmup = min(warmup, parameters.epochs * steps - 1)
        return schedules.CosineDecay(
            0.0 if warmup else highest,
            parameters.epochs * steps - warmup,
            alpha=schedule.floor,
            warmup_target=highest if warmup else None,
            warmup_steps=warmup,
        )
    if isinstance(schedule, Exponential):
        period = max(1, round(schedule.epochs * steps))
        decay = schedules.ExponentialDecay(highest, period, schedule.rate, staircase=schedule.staircase)
        return Warmup(decay, warmup, after=True) if warmup else decay
    if isinstance(schedule, Piecewise):
        # Keras goes over after the boundary itself, epochs end one step earlier
        boundaries = [epoch * steps - 1 for epoch in schedule.epochs]
        stairs = schedules.PiecewiseConstantDecay(boundaries, [highest, *(highest * part for part in schedule.factors)])
        return Warmup(stairs, warmup) if warmup else stairs
    return Warmup(lambda _: highest, warmup) if warmup and isinstance(schedule, Constant) else highest


class Warmup(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras is untyped
    """A straight rise from zero to what another schedule says."""

    def __init__(self, highest: Callable[[Any], Any], steps: int, *, after: bool = False) -> None:
        """With `after`, the other schedule begins when the rise is over."""
        super().__init__()
        self.highest = highest
        self.steps = steps
        self.after = after

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        step = keras.ops.cast(step, "float32")
        highest = self.highest(keras.ops.maximum(step - self.steps, 0.0) if self.after else step)
        return highest * keras.ops.minimum(step / self.steps, 1.0)


def learning_rate(parameters: TrainParameters, history: Sequence[Row], step: int, steps_per_epoch: int) -> float | None:
    """The learning rate of a step, when it depends on the epochs so far; None when it does not.

    Args:
        parameters: How the model is trained.
        history: The epochs before this one.
        step: Number of steps before this one.
        steps_per_epoch: Steps of each epoch.
    """
    schedule = parameters.schedule
    if not isinstance(schedule, ReduceOnPlateau):
        return None
    rate, best, waited = parameters.learning_rate, float("inf"), 0
    for row in history[math.ceil(schedule.warmup_epochs) :]:
        value = _cost(row, schedule.monitor)
        if value < best - schedule.min_delta:
            best, waited = value, 0
            continue
        waited += 1
        if waited >= schedule.patience:
            rate, waited = min(rate, max(rate * schedule.factor, schedule.minimum)), 0
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    return rate * min(1.0, step / warmup) if warmup else rate


def best_epoch(stopping: EarlyStopping, history: Sequence[Row]) -> int:
    """Index of the epoch whose weights are the best so far."""
    best, index = float("inf"), 0
    for epoch, row in enumerate(history):
        value = _cost(row, stopping.monitor)
        if value < best - stopping.min_delta:
            best, index = value, epoch
    return index


def should_stop(stopping: EarlyStopping | None, history: Sequence[Row]) -> bool:
    """Whether the monitored number has not become better for too long, or training and validation are too far apart."""
    if stopping is None or not history:
        return False
    if len(history) - 1 - best_epoch(stopping, history) >= stopping.patience:
        return True
    if stopping.max_gap is None:
        return False
    gaps = [row["accuracy"] - row["validation_accuracy"] for row in history[-stopping.patience :]]
    return len(gaps) == stopping.patience and min(gaps) > stopping.max_gap


def _cost(row: Row, monitor: str) -> float:
    """The monitored number, turned so that less is better."""
    return -row[monitor] if monitor.endswith("accuracy") else row[monitor]
