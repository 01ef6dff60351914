"""Train one model on groups of ranks: large layers are split within a group, batches between the groups.

Splitting happens after an ordinary model was built, so all begins with the weights that one rank would draw, and ends
before anything is written: checkpoints and saved models hold whole arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from millrace.training.gradients import added_up
from millrace.training.parameters import TrainParameters
from millrace.training.ranks import Ranks
from millrace.training.tensor_parallel_group import Shard, TensorGroup
from millrace.training.tensor_parallel_layers import (
    ColumnDense,
    RowDense,
    SplitDropout,
    SplitEmbedding,
    predicted_right,
    split_crossentropy,
)
from millrace.training.tensor_parallel_plan import Plan, plan
from millrace.training.tensor_parallel_ranks import TensorRanks

__all__ = ["Split", "loss_and_accuracy", "split_model"]

_Arrays = list[NDArray[Any]]


class _Whole:
    """A variable of which each rank of a group has a part, as a checkpoint sees it."""

    def __init__(self, variable: Any, group: TensorGroup) -> None:
        self._variable = variable
        self._group = group

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole variable."""
        shard: Shard = _shard(self._variable)
        return shard.whole_shape(tuple(self._variable.shape))

    @property
    def value(self) -> Any:
        """The whole value; all ranks of the group must ask for it."""
        return tf.constant(_joined(self._variable.value.numpy(), _shard(self._variable), self._group))

    def assign(self, value: Any) -> None:
        """Take this rank's part of a whole value."""
        self._variable.assign(_shard(self._variable).of(value))


@dataclass(frozen=True)
class Split:
    """A model of which this rank has its part."""

    model: Any
    ranks: TensorRanks
    head: bool
    """Whether it gives the logits of this rank's classes in place of all classes' probabilities."""
    clip_norm: float | None
    """Gradients are scaled down to this norm, which is that over all parts."""

    def fit_optimizer(self) -> None:
        """Let the model's optimizer, before it is built, keep its figures in parts too, and leave clipping to us."""
        optimizer = self.model.optimizer
        optimizer.global_clipnorm = None
        add = optimizer.add_variable_from_reference

        def adding(reference_variable: Any, *arguments: Any, **named: Any) -> Any:
            variable = add(reference_variable, *arguments, **named)
            variable.shard = _shard(reference_variable)
            return variable

        optimizer.add_variable_from_reference = adding

    def added_up(
        self, gradients: Sequence[Any], others: Sequence[Any], ranks: Ranks, name: str, *, half: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """As `gradients.added_up`, for the trainable weights; then clipped.

        Gradients of what all ranks have are added up over all, of parts over those that have the same part.
        """
        shards = [_shard(weight) for weight in self.model.trainable_weights]
        common = [gradient if shard is None else None for gradient, shard in zip(gradients, shards, strict=True)]
        apart = [None if shard is None else gradient for gradient, shard in zip(gradients, shards, strict=True)]
        common, others = added_up(common, others, ranks, name, half=half)
        if self.ranks.peers is not None:
            apart, _ = added_up(apart, [], self.ranks.peers, f"{name}.apart", half=half)
        sums = [one if shard is None else part for one, part, shard in zip(common, apart, shards, strict=True)]
        return (sums if self.clip_norm is None else self._clipped(common, apart, sums, self.clip_norm)), others

    def whole(self, variables: Sequence[Any]) -> list[Any]:
        """The variables as a checkpoint sees them."""
        group = self.ranks.group
        return [variable if _shard(variable) is None else _Whole(variable, group) for variable in variables]

    def give(self, variables: Sequence[Any]) -> None:
        """Take part in what the first rank reads of variables as of `whole`."""
        for variable in variables:
            if isinstance(variable, _Whole):
                _ = variable.value

    def whole_weights(self, weights: _Arrays) -> _Arrays:
        """Values of the model's weights, put together; all ranks of the group must do it."""
        pairs = zip(weights, map(_shard, self.model.weights), strict=True)
        return [array if shard is None else _joined(array, shard, self.ranks.group) for array, shard in pairs]

    def own_weights(self, weights: _Arrays) -> _Arrays:
        """This rank's part of the values of the whole model's weights."""
        pairs = zip(weights, map(_shard, self.model.weights), strict=True)
        return [array if shard is None else shard.of(array) for array, shard in pairs]

    def _clipped(self, common: list[Any], apart: list[Any], sums: list[Any], limit: float) -> list[Any]:
        """As Keras' `global_clipnorm` does it, with the squares of all parts."""
        squares = self.ranks.group.total(_squares(apart), "norm") + _squares(common)
        norm = tf.sqrt(squares)
        scale = limit * tf.minimum(1.0 / norm, 1.0 / limit) + (norm - norm)  # no number when the norm is none
        return [None if one is None else tf.convert_to_tensor(one) * tf.cast(scale, one.dtype) for one in sums]


def split_model(model: Any, parameters: TrainParameters, ranks: Ranks | None) -> Split | None:
    """A model with the same weights, of which this rank has its part of the large ones; None when it is not split.

    Raises:
        ConfigError: When nothing can be split, or not what was named.
    """
    if not isinstance(ranks, TensorRanks):
        return None
    made = plan(model, parameters.parallel)
    copy = keras.models.clone_model(model, clone_function=lambda one: _made(one, made, ranks.group), recursive=True)
    for given, own in zip(model.variables, copy.variables, strict=True):
        shard = _shard(own)
        own.assign(given if shard is None else shard.of(given.value))
    return Split(copy, ranks, made.head, parameters.gradient_clip_norm)


def loss_and_accuracy(split: Split | None, label_smoothing: float) -> tuple[Any, Any]:
    """What a classifier is compiled with."""
    if split is None or not split.head:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
        return loss, keras.metrics.CategoricalAccuracy(name="accuracy")
    right = keras.metrics.MeanMetricWrapper(predicted_right(split.ranks.group), name="accuracy")
    return split_crossentropy(split.ranks.group, label_smoothing), right


def _made(layer: Any, made: Plan, group: TensorGroup) -> Any:
    """What takes a layer's place."""
    how = made.split.get(id(layer))
    match how:
        case "classes":
            return ColumnDense(layer, group, gathered=False, activation=keras.activations.linear)
        case "columns":
            return ColumnDense(layer, group, gathered=False, activation=layer.activation)
        case "gathered columns":
            return ColumnDense(layer, group, gathered=True, activation=layer.activation)
        case "rows" | "taken rows":
            return RowDense(layer, group, taken=how == "taken rows")
        case "vocabulary":
            return SplitEmbedding(layer, group)
        case None:
            pass
    if (before := made.dropouts.get(id(layer))) is not None:
        return SplitDropout(layer, group.shard(0, before.units))
    config = layer.get_config()
    if id(layer) in made.tail:
        config["activation"] = "linear"
    return type(layer).from_config(config)


def _shard(variable: Any) -> Any:
    """Which part of a variable this rank has; None when all have all of it."""
    return getattr(variable, "shard", None)


def _joined(own: NDArray[Any], shard: Shard, group: TensorGroup) -> NDArray[Any]:
    first = np.ascontiguousarray(np.moveaxis(own, shard.axis, 0))
    joined: NDArray[Any] = group.together(tf.constant(first), "whole").numpy()
    return np.moveaxis(joined, 0, shard.axis)


def _squares(gradients: Sequence[Any]) -> Any:
    """Sum of squares; of sparse gradients as they are, as Keras takes it."""
    values = [one.values if isinstance(one, tf.IndexedSlices) else one for one in gradients if one is not None]
    return tf.add_n([tf.zeros([]), *(tf.reduce_sum(tf.square(tf.cast(one, tf.float32))) for one in values)])
