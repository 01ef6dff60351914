"""Optimizers, learning rates and when to stop; what depends on the past is computed from the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from millrace.training.options.schedules import Cosine, EarlyStopping, Exponential, Piecewise, ReduceOnPlateau
from millrace.training.parameters import TrainParameters

__all__ = ["Row", "best_epoch", "learning_rate", "make_optimizer", "should_stop"]

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
        learning_rate=_by_step(parameters, steps_per_epoch), global_clipnorm=parameters.gradient_clip_norm, **knobs
    )


def _by_step(parameters: TrainParameters, steps: int) -> Any:
    schedule, highest = parameters.schedule, parameters.learning_rate
    schedules = keras.optimizers.schedules
    if isinstance(schedule, Cosine):
        warmup = min(round(schedule.warmup_epochs * steps), parameters.epochs * steps - 1)
        return schedules.CosineDecay(
            0.0 if warmup else highest,
            parameters.epochs * steps - warmup,
            alpha=schedule.floor,
            warmup_target=highest if warmup else None,
            warmup_steps=warmup,
        )
    if isinstance(schedule, Exponential):
        period = max(1, round(schedule.epochs * steps))
        return schedules.ExponentialDecay(highest, period, schedule.rate, staircase=schedule.staircase)
    if isinstance(schedule, Piecewise):
        # Keras goes over after the boundary itself, epochs end one step earlier
        boundaries = [epoch * steps - 1 for epoch in schedule.epochs]
        return schedules.PiecewiseConstantDecay(boundaries, [highest, *(highest * part for part in schedule.factors)])
    return highest


def learning_rate(parameters: TrainParameters, history: Sequence[Row]) -> float | None:
    """The learning rate for the next epoch, when it depends on the epochs so far; None when it does not."""
    schedule = parameters.schedule
    if not isinstance(schedule, ReduceOnPlateau):
        return None
    rate, best, waited = parameters.learning_rate, float("inf"), 0
    for row in history:
        value = _cost(row, schedule.monitor)
        if value < best - schedule.min_delta:
            best, waited = value, 0
            continue
        waited += 1
        if waited >= schedule.patience:
            rate, waited = min(rate, max(rate * schedule.factor, schedule.minimum)), 0
    return rate


def best_epoch(stopping: EarlyStopping, history: Sequence[Row]) -> int:
    """Index of the epoch whose weights are the best so far."""
    best, index = float("inf"), 0
    for epoch, row in enumerate(history):
        value = _cost(row, stopping.monitor)
        if value < best - stopping.min_delta:
            best, index = value, epoch
    return index


def should_stop(stopping: EarlyStopping | None, history: Sequence[Row]) -> bool:
    """Whether the monitored number has not become better for too long."""
    if stopping is None or not history:
        return False
    return len(history) - 1 - best_epoch(stopping, history) >= stopping.patience


def _cost(row: Row, monitor: str) -> float:
    """The monitored number, turned so that less is better."""
    return -row[monitor] if monitor.endswith("accuracy") else row[monitor]
