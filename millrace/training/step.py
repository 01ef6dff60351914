"""A training step of several ranks: each takes its part of the batch, and all end up with the same variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from millrace.training.ranks import Part, Ranks

__all__ = ["add_up_metrics", "scatter_seeds", "synchronise"]

_SPREAD = 0x9E3779B9  # odd: no two ranks get the same seed


def synchronise(model: Any, ranks: Ranks, part: Part) -> None:
    """Make the step of a compiled model one of all ranks.

    Gradients, the running figures and the moving statistics of batch normalisation are added up in one message, each
    weighted by the rank's part of the batch. So all variables but the seeds are the same everywhere after each step,
    and the same as on one host with the whole batch, but for batch normalisation, which sees each part by itself.
    """
    share = part.size / part.whole

    def step(data: Any) -> dict[str, Any]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        before = [tf.identity(variable.value) for variable in model.metrics_variables]
        model.reset_metrics()
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)
            scaled = model.optimizer.scale_loss(loss)
        _tracker(model).update_state(loss, sample_weight=part.size)
        model.compute_metrics(x, y, predicted, sample_weight=weight)
        weights, gradients = _gradients(tape, scaled, model.trainable_weights)
        moving = list(_moving(model))
        sums = iter(
            ranks.agree(
                [
                    *(gradient * tf.cast(share, gradient.dtype) for gradient in gradients),
                    *(variable.value * tf.cast(share, variable.dtype) for variable in moving),
                    *(variable.value for variable in model.metrics_variables),
                ]
            )
        )
        if weights:
            model.optimizer.apply_gradients([(next(sums), weight) for weight in weights])
        for variable in moving:
            variable.assign(next(sums))
        for variable, value in zip(model.metrics_variables, before, strict=True):
            variable.assign(value + next(sums))
        figures: dict[str, Any] = model.get_metrics_result()
        return figures

    model.train_step = step


def add_up_metrics(model: Any, ranks: Ranks) -> dict[str, Any]:
    """The figures over all ranks, of which each has seen some records."""
    variables = model.metrics_variables
    sums = ranks.agree([variable.value for variable in variables])
    for variable, value in zip(variables, sums, strict=True):
        variable.assign(value)
    figures: dict[str, Any] = model.get_metrics_result()
    return figures


def scatter_seeds(model: Any, ranks: Ranks) -> None:
    """Give each rank's dropout seeds of its own, made of the first rank's."""
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state":
            seed = variable.value.numpy().astype(np.uint64)
            seed[0] = (seed[0] + np.uint64(ranks.index * _SPREAD)) % np.uint64(2**32)
            variable.assign(seed.astype(np.uint32))


def _tracker(model: Any) -> Any:
    return next(metric for metric in model.metrics if metric.name == "loss")


def _gradients(tape: Any, loss: Any, weights: list[Any]) -> tuple[list[Any], list[Any]]:
    """Weights that have a gradient, and their gradients, dense."""
    if not weights:
        return [], []
    pairs = zip(weights, tape.gradient(loss, weights), strict=True)
    found = [(weight, tf.convert_to_tensor(gradient)) for weight, gradient in pairs if gradient is not None]
    return [weight for weight, _ in found], [gradient for _, gradient in found]


def _moving(model: Any) -> Iterator[Any]:
    """What layers change by themselves while training; nothing of frozen layers."""
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _moving(layer)
        elif layer.trainable:
            yield from (weight for weight in layer.non_trainable_weights if "float" in weight.dtype)
