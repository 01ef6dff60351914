"""Which layers of a model are split, and how."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras

from millrace.errors import ConfigError, did_you_mean
from millrace.training.options.parallel import Parallel

__all__ = ["How", "Plan", "plan"]

How = Literal["classes", "columns", "gathered columns", "rows", "taken rows", "vocabulary"]
"""Dense by outputs (the logits of a head, kept apart, or gathered), by inputs (apart already, or taken), Embedding."""

_BY_ELEMENT = frozenset(
    {"elu", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "relu", "relu6", "selu", "sigmoid", "silu"}
    | {"softplus", "softsign", "swish", "tanh"}
)


@dataclass
class Plan:
    """What becomes of layers, by their identity; of others a copy is made."""

    split: dict[int, How] = field(default_factory=dict)
    dropouts: dict[int, Any] = field(default_factory=dict)
    """Dropout layers between columns and rows, and the Dense layer before."""
    tail: list[int] = field(default_factory=list)
    """Activations behind a head whose logits stay split: the loss does their work."""

    @property
    def head(self) -> bool:
        """Whether the model ends with the logits of some classes."""
        return "classes" in self.split.values()


@dataclass(frozen=True)
class _Graph:
    """The layers of one functional model, and what their outputs go into."""

    model: Any
    layers: tuple[Any, ...]
    after: dict[int, list[Any]]
    """Layers by the layer before; None stands for the model's outputs."""

    def next(self, layer: Any) -> Any:
        """The only layer that takes this one's output, None when there are others."""
        after = self.after[id(layer)]
        return after[0] if len(after) == 1 else None


def plan(model: Any, options: Parallel) -> Plan:
    """Choose how each large layer is split.

    A head (Dense, then softmax, then nothing) keeps its classes apart. Of other Dense layers two that follow each other
    become columns and rows, with nothing gathered between them; one alone is split by its outputs and gathered, or by
    its inputs when only these are many.

    Args:
        model: Built, functional or sequential; models within it are gone through too.
        options: Which layers are large enough, or their names.

    Raises:
        ConfigError: When a named layer is missing or can't be split, or nothing is left to split.
    """
    graphs = list(_graphs(model))
    chosen = _chosen(graphs, options)
    made = Plan()
    _plan_head(model, chosen, options, made)
    for graph in graphs:
        for layer in graph.layers:
            if id(layer) in chosen and id(layer) not in made.split:
                _plan_layer(graph, layer, options, made)
    return made


def _chosen(graphs: Sequence[_Graph], options: Parallel) -> set[int]:
    every = [layer for graph in graphs for layer in graph.layers]
    if options.layers is None:
        chosen = {id(layer) for layer in every if not _obstacle(layer, options) and _extent(layer) >= options.min_units}
        if not chosen:
            raise ConfigError(
                f"parallel.tensor={options.tensor}, but the model has no Dense or Embedding layer of "
                f"{options.min_units} units or rows to split: lower parallel.min_units, name layers in "
                "parallel.layers, or use parallel.tensor=1"
            )
        return chosen
    by_name = {layer.name: layer for layer in every}
    for name in options.layers:
        if name not in by_name:
            raise ConfigError(f"parallel.layers names unknown layer {name!r}: {did_you_mean(name, list(by_name))}")
        if reason := _obstacle(by_name[name], options):
            raise ConfigError(f"parallel.layers: {name!r} can't be split: {reason}")
    return {id(by_name[name]) for name in options.layers}


def _obstacle(layer: Any, options: Parallel) -> str | None:
    if type(layer) not in (keras.layers.Dense, keras.layers.Embedding):
        return f"it is a {type(layer).__name__}, needed: Dense or Embedding"
    extra = ("kernel", "bias", "embeddings", "activity")
    if any(getattr(layer, f"{what}_{kind}", None) for what in extra for kind in ("regularizer", "constraint")):
        return "it has a regularizer or a constraint, which would see a part of the weights only"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "it is quantized or has LoRA weights"
    if _extent(layer) < options.tensor:
        return f"it has {_extent(layer)} units or rows, fewer than parallel.tensor={options.tensor} ranks"
    return None


def _extent(layer: Any) -> int:
    """How many places its weights have along the axis that would be split."""
    return int(layer.input_dim) if isinstance(layer, keras.layers.Embedding) else max(_shape(layer))


def _shape(dense: Any) -> tuple[int, int]:
    inputs, units = dense.kernel.shape
    return int(inputs), int(units)


def _plan_head(model: Any, chosen: set[int], options: Parallel, made: Plan) -> None:
    fewest = options.tensor if options.layers else max(options.tensor, options.min_units)
    graph, softmax = _graph(model), False
    tail: list[int] = []
    layer: Any = _last(graph)
    while layer is not None:
        if _inner(layer):
            graph = _graph(layer)
            layer = _last(graph)
            continue
        function = getattr(getattr(layer, "activation", None), "__name__", "")
        if function not in ("softmax", "linear") or (function == "softmax" and softmax):
            return
        softmax = softmax or function == "softmax"
        if type(layer) is keras.layers.Dense:
            if softmax and id(layer) in chosen and layer.units >= fewest:
                made.split[id(layer)] = "classes"
                made.tail.extend(tail)
            return
        if type(layer) is not keras.layers.Activation:
            return
        tail.append(id(layer))
        layer = _before(graph, layer)


def _plan_layer(graph: _Graph, layer: Any, options: Parallel, made: Plan) -> None:
    if isinstance(layer, keras.layers.Embedding):
        made.split[id(layer)] = "vocabulary"
        return
    inputs, units = _shape(layer)
    if (pair := _pair(graph, layer, options, made)) is not None:
        second, dropouts = pair
        made.split |= {id(layer): "columns", id(second): "rows"}
        made.dropouts |= {id(dropout): layer for dropout in dropouts}
    else:
        wide = units >= max(options.tensor, min(inputs, options.min_units))
        made.split[id(layer)] = "gathered columns" if wide else "taken rows"


def _pair(graph: _Graph, first: Any, options: Parallel, made: Plan) -> tuple[Any, list[Any]] | None:
    """The Dense layer that this one's outputs go into element by element, and the Dropout layers between."""
    if first.units < options.tensor or not _by_element(first):
        return None
    dropouts, layer = [], graph.next(first)
    while layer is not None and type(layer) is not keras.layers.Dense:
        if type(layer) is keras.layers.Dropout and layer.noise_shape is None:
            dropouts.append(layer)
        elif type(layer) not in (keras.layers.Activation, keras.layers.ReLU) or not _by_element(layer):
            return None
        layer = graph.next(layer)
    if layer is None or _obstacle(layer, options) or id(layer) in made.split or _calls(graph, layer) > 1:
        return None
    return layer, dropouts


def _by_element(layer: Any) -> bool:
    return isinstance(layer, keras.layers.ReLU) or layer.activation.__name__ in _BY_ELEMENT


def _graphs(model: Any) -> Iterator[_Graph]:
    graph = _graph(model)
    yield graph
    for layer in graph.layers:
        if _inner(layer):
            yield from _graphs(layer)


def _graph(model: Any) -> _Graph:
    functional = getattr(model, "_functional", None) or model  # what a Sequential model is inside
    after: dict[int, list[Any]] = defaultdict(list)
    for node in itertools.chain.from_iterable(functional._nodes_by_depth.values()):
        for tensor in node.input_tensors:
            after[id(tensor._keras_history.operation)].append(node.operation)
    for tensor in functional.outputs:
        after[id(tensor._keras_history.operation)].append(None)
    return _Graph(functional, tuple(model.layers), after)


def _inner(layer: Any) -> bool:
    return bool(getattr(layer, "layers", None))


def _calls(graph: _Graph, layer: Any) -> int:
    return sum(after is layer for others in graph.after.values() for after in others)


def _last(graph: _Graph) -> Any:
    """The layer that gives the only output, and nothing else."""
    if len(graph.model.outputs) != 1:
        return None
    layer = graph.model.outputs[0]._keras_history.operation
    return layer if graph.after[id(layer)] == [None] else None


def _before(graph: _Graph, layer: Any) -> Any:
    """The layer before, when only this one takes its output."""
    found = [one for one in graph.layers if graph.after[id(one)] == [layer]]
    return found[0] if len(found) == 1 else None
