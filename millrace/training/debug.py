"""A look into the network while it learns: sizes of gradients and activations, layer by layer.

A look is a step on the run's first batch that changes nothing, so looking makes no difference to what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

__all__ = ["Look", "Probe"]

Look = dict[str, dict[str, float]]
"""Figures by layer with weights: `gradient` (mean size), `gradient_norm`, `activation` (deviation); of ReLU `dead`, a
share. Those of normalisation follow their neighbours' and are left out."""

_LEFT_OUT = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)


class _Watched(NamedTuple):
    name: str
    layer: Any
    relu: bool


class Probe:
    """Looks at one model on one batch."""

    def __init__(self, model: Any, batch: tuple[Any, ...]) -> None:
        """`batch` is (inputs, targets) or (inputs, targets, weights)."""
        self._model = model
        self._batch = batch
        self._layers = list(_leaves(model, ""))
        self.renew()

    def renew(self) -> None:
        """Look at the weights that learn from now on."""
        self._function = tf.function(self._figures, autograph=False)

    def look(self) -> Look:
        """What each layer does now; no variable is another one afterwards."""
        kept = [*self._model.non_trainable_variables, *self._model.metrics_variables]
        values = [variable.value.numpy() for variable in kept]
        try:
            found = self._function(*self._batch)
        finally:
            for variable, value in zip(kept, values, strict=True):
                variable.assign(value)
        return {
            name: {figure: float(value) for figure, value in figures.items()}
            for name, figures in found.items()
            if figures
        }

    def _figures(self, x: Any, y: Any, weight: Any = None) -> dict[str, dict[str, Any]]:
        model, seen = self._model, dict[str, Any]()
        with _recorded(self._layers, seen), tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)
            scaled = model.optimizer.scale_loss(loss)  # float16 can't hold small gradients as they are
        scale = model.optimizer.scale_loss(tf.ones_like(loss))
        weights = model.trainable_weights
        gradients = {id(one): gradient for one, gradient in zip(weights, tape.gradient(scaled, weights), strict=True)}
        return {
            watched.name: {
                **_of_gradients([gradients.get(id(one)) for one in watched.layer.trainable_weights], scale),
                **_of_activation(seen.get(watched.name), watched),
            }
            for watched in self._layers
        }


def _leaves(layer: Any, prefix: str) -> Iterator[_Watched]:
    """The layers that compute, in the order of the network; names of nested ones begin with their model's."""
    for inner in layer.layers:
        if getattr(inner, "layers", None):
            yield from _leaves(inner, f"{prefix}{inner.name}/")
        elif not isinstance(inner, (keras.layers.InputLayer, *_LEFT_OUT)):
            activation = getattr(inner, "activation", None)
            relu = isinstance(inner, keras.layers.ReLU) or activation is keras.activations.relu
            yield _Watched(f"{prefix}{inner.name}", inner, relu)


@contextmanager
def _recorded(layers: list[_Watched], seen: dict[str, Any]) -> Iterator[None]:
    """Note what layers give while they are called; of a layer that is called twice, the last."""

    def noting(watched: _Watched) -> Any:
        call = watched.layer.call

        def noted(*args: Any, **given: Any) -> Any:
            seen[watched.name] = output = call(*args, **given)
            return output

        return noted

    for watched in layers:
        object.__setattr__(watched.layer, "call", noting(watched))  # Keras tracks what is set in its own way
    try:
        yield
    finally:
        for watched in layers:
            object.__delattr__(watched.layer, "call")


def _of_gradients(gradients: list[Any], scale: Any) -> dict[str, Any]:
    dense = [tf.cast(tf.convert_to_tensor(item), tf.float32) / scale for item in gradients if item is not None]
    if not dense:
        return {}
    size = float(sum(int(np.prod(item.shape)) for item in dense))
    return {
        "gradient": tf.add_n([tf.reduce_sum(tf.abs(item)) for item in dense]) / size,
        "gradient_norm": tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(item)) for item in dense])),
    }


def _of_activation(output: Any, watched: _Watched) -> dict[str, Any]:
    if not tf.is_tensor(output) or not output.dtype.is_floating:
        return {}
    values = tf.cast(output, tf.float32)
    figures = {"activation": tf.math.reduce_std(values)} if watched.layer.weights else {}
    if watched.relu:
        silent = tf.reduce_all(values <= 0, axis=list(range(len(values.shape) - 1)))
        figures["dead"] = tf.reduce_mean(tf.cast(silent, tf.float32))
    return figures
