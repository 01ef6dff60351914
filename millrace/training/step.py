"""A training step of several ranks: each takes its part of the batch, and all end up with the same variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from millrace.training.gradients import AddUp, added_up, shared
from millrace.training.ranks import Ranks

__all__ = ["add_up_metrics", "scatter_seeds", "synchronise"]

_SPREAD = 0x9E3779B9  # odd: no two ranks get the same seed


def synchronise(
    model: Any, ranks: Ranks, *, every: int = 1, half: bool = False, add: AddUp = added_up
) -> Callable[[Iterator[Any]], None]:
    """Make the train function of a compiled model one of all ranks, which share the batch of each step.

    It takes pairs: a rank's part of the batch, which may be of any size, also empty, and how many records all have.

    Gradients, the running figures and the moving statistics of batch normalisation are added up in one message, each
    weighted by the rank's part of the batch. So all variables but the seeds are the same everywhere after each step,
    and the same as on one host with the whole batch, but for batch normalisation, which sees each part by itself.
    Scaled losses (float16) are added up before they are looked at: all ranks skip the same steps. What
    `model.jit_compile` says is done to the forward and the backward pass; sums over ranks can't be compiled.

    Args:
        model: Compiled, with its optimizer and metrics built.
        ranks: Those that train it.
        every: Weights change once in so many steps, by the mean of their gradients; only then ranks exchange something.
        half: Gradients travel as float16.
        add: Adds up gradients of the trainable weights, and other numbers.

    Returns:
        What to call for all but the last of `every` steps, in place of the train function.
    """
    backward = tf.function(_backward(model), reduce_retracing=True, jit_compile=bool(model.jit_compile))
    held = _Held(model) if every > 1 else None

    def update(data: Any) -> dict[str, Any]:
        before = [tf.identity(variable.value) for variable in model.metrics_variables]
        gradients, figures, share = backward(data)
        if held is not None:
            gradients, figures = held.released(gradients, figures)
        moving = list(_moving(model))
        parts = shared([variable.value for variable in moving], share)
        gradients, sums = add(gradients, [*parts, *figures], ranks, "step", half=half)
        if model.trainable_weights:
            model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        for variable, value in zip(moving, sums[: len(moving)], strict=True):
            variable.assign(value)
        for variable, value, new in zip(model.metrics_variables, before, sums[len(moving) :], strict=True):
            variable.assign(value + new)
        totals: dict[str, Any] = model.get_metrics_result()
        return totals

    def gather(batches: Iterator[Any]) -> None:
        before = [tf.identity(variable.value) for variable in model.metrics_variables]
        gradients, figures, _ = backward(next(batches))
        if held is not None:
            held.add(gradients, figures)
        for variable, value in zip(model.metrics_variables, before, strict=True):
            variable.assign(value)

    compiled, model.jit_compile = model.jit_compile, False
    model.train_step = update
    model.make_train_function(force=True)
    model.jit_compile = compiled
    gathering: Callable[[Iterator[Any]], None] = tf.function(gather, reduce_retracing=True)
    return gathering


def add_up_metrics(model: Any, ranks: Ranks) -> dict[str, Any]:
    """The figures over all ranks, of which each has seen some records."""
    variables = model.metrics_variables
    sums = ranks.agree([variable.value for variable in variables], "metrics")
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


class _Held:
    """The sums of earlier steps, as zeros between two changes of the weights; a checkpoint needs none of them."""

    def __init__(self, model: Any) -> None:
        self._gradients = [_zeros(weight) for weight in model.trainable_weights]
        self._figures = [_zeros(variable) for variable in model.metrics_variables]
        self._steps = tf.Variable(tf.constant(0.0), trainable=False)

    def add(self, gradients: list[Any], figures: list[Any]) -> None:
        for held, new in self._pairs(gradients, figures):
            held.assign_add(new)
        self._steps.assign_add(1.0)

    def released(self, gradients: list[Any], figures: list[Any]) -> tuple[list[Any], list[Any]]:
        """Means of the gradients and sums of the figures, with those of the last step."""
        steps = self._steps + 1.0
        means = [
            None if new is None else (held + tf.convert_to_tensor(new)) / tf.cast(steps, held.dtype)
            for held, new in zip(self._gradients, gradients, strict=True)
        ]
        sums = [held + new for held, new in zip(self._figures, figures, strict=True)]
        for variable in (*self._gradients, *self._figures, self._steps):
            variable.assign(tf.zeros_like(variable))
        return means, sums

    def _pairs(self, gradients: list[Any], figures: list[Any]) -> Iterator[tuple[Any, Any]]:
        pairs = zip((*self._gradients, *self._figures), (*gradients, *figures), strict=True)
        return ((held, tf.convert_to_tensor(new)) for held, new in pairs if new is not None)


def _zeros(variable: Any) -> Any:
    return tf.Variable(tf.zeros_like(variable.value), trainable=False)


def _backward(model: Any) -> Callable[[Any], tuple[list[Any], list[Any], Any]]:
    """A function from this rank's part of a step to its weighted gradients, its running figures and its share."""

    def backward(data: Any) -> tuple[list[Any], list[Any], Any]:
        part, whole = data
        x, y, weight = keras.utils.unpack_x_y_sample_weight(part)
        size = tf.shape(tf.nest.flatten(x)[0])[0]
        moving = list(_moving(model))
        before = [tf.identity(variable.value) for variable in moving]
        model.reset_metrics()
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)
            loss = tf.reduce_sum(loss)  # one number, also of no records
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights) if model.trainable_weights else []
        _tracker(model).update_state(tf.where(size > 0, loss, 0.0), sample_weight=size)
        model.compute_metrics(x, y, predicted, sample_weight=weight)
        for variable, value in zip(moving, before, strict=True):
            variable.assign(tf.where(size > 0, variable.value, value))  # no records have no mean
        share = tf.cast(size, tf.float32) / whole
        return shared(gradients, share), [tf.identity(variable.value) for variable in model.metrics_variables], share

    return backward


def _tracker(model: Any) -> Any:
    return next(metric for metric in model.metrics if metric.name == "loss")


def _moving(model: Any) -> Iterator[Any]:
    """What layers change by themselves while training; nothing of frozen layers."""
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _moving(layer)
        elif layer.trainable:
            yield from (weight for weight in layer.non_trainable_weights if "float" in weight.dtype)
