"""Fine-tuning: the network of a trained model, what of it learns in which phase, and how fast."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from millrace.errors import ConfigError, DataError, did_you_mean
from millrace.runtime.schemas import RecordsSchema
from millrace.training.options.reuse import FineTuning
from millrace.training.parameters import TrainParameters
from millrace.training.reuse import Reused, load
from millrace.training.schedule import by_step

__all__ = ["Phases", "frozen_epochs", "last_phase", "network", "of_phase", "phases"]

layers = keras.layers


class _Layer(NamedTuple):
    """A layer with weights, and the names of the models that it is in, its own last."""

    layer: Any
    names: tuple[str, ...]

    @property
    def is_batch_norm(self) -> bool:
        return isinstance(self.layer, layers.BatchNormalization)

    def belongs_to(self, block: str) -> bool:
        """Whether it is in the block; `block_1` does not mean `block_16`."""
        return block in self.names or re.match(rf"{re.escape(block)}(?!\d)", self.names[-1]) is not None


def frozen_epochs(parameters: TrainParameters) -> int:
    """Epochs of the first phase; 0 when there is one phase only."""
    return 0 if parameters.fine_tuning is None else parameters.fine_tuning.frozen_epochs


def of_phase(parameters: TrainParameters, epoch: int) -> TrainParameters:
    """The parameters with the learning rate and the number of epochs of the phase that an epoch, from 0, is in."""
    tuning, frozen = parameters.fine_tuning, frozen_epochs(parameters)
    if tuning is None:
        return parameters
    if epoch < frozen:
        return parameters.model_copy(update={"epochs": frozen})
    rate = tuning.second_rate(parameters.learning_rate)
    return parameters.model_copy(update={"epochs": parameters.epochs - frozen, "learning_rate": rate})


def last_phase(parameters: TrainParameters, history: Sequence[Any]) -> Sequence[Any]:
    """The part of a history that the phase of the next epoch has made."""
    frozen = frozen_epochs(parameters)
    return history[frozen:] if len(history) >= frozen else history


def network(parameters: TrainParameters, base: Reused, schema: RecordsSchema, policy: str) -> Any:
    """The network of a trained model with its weights; a new head's are drawn from `parameters.seed`.

    Args:
        parameters: With `fine_tuning`.
        base: The trained model.
        schema: Of the records.
        policy: Keras dtype policy; inputs and probabilities are float32 under each.

    Raises:
        DataError: When the model does not fit the records.
        ConfigError: When it can't be told which head is wanted.
    """
    tuning = parameters.fine_tuning or FineTuning()
    keras.utils.clear_session()  # as for a new network
    keras.utils.set_random_seed(parameters.seed + 1)
    keep = _keeps_head(tuning, base, schema)
    model = load(base, schema, same_classes=keep)
    outputs = model.outputs[0] if keep else _with_new_head(base, model, len(schema.classes))
    keras.config.set_dtype_policy(policy)
    try:
        made = keras.Model(model.inputs[0], outputs, name="fine_tuned")
    finally:
        keras.config.set_dtype_policy("float32")
    if keep:
        _check_probabilities(base, made)
    for layer in _every_layer(made):
        if policy != "float32" and layer is not made.layers[-1] and not isinstance(layer, layers.InputLayer):
            layer.dtype_policy = keras.DTypePolicy(policy)
    return made


def _keeps_head(tuning: FineTuning, base: Reused, schema: RecordsSchema) -> bool:
    if tuning.head == "keep" and base.card is not None and base.card.records.classes != schema.classes:
        raise DataError(
            f"fine_tuning.head=keep: {base.title} and the records have different classes, {len(schema.classes)} in the "
            "records: use head=new, or records with the model's classes in its order"
        )
    if tuning.head != "auto":
        return tuning.head == "keep"
    if base.card is None:
        raise ConfigError(
            f"fine_tuning.head=auto: {base.title} has no model.json beside it, so its classes are not known: set "
            "head to keep, when they are those of the records in the same order, or to new"
        )
    return base.card.records.classes == schema.classes


def _with_new_head(base: Reused, model: Any, classes: int) -> Any:
    """The network's output, with other layers in place of those that told the old classes apart."""
    features = _features(base, model)
    if len(features.shape) != 2:
        raise DataError(f"{base.title} gives its head features of shape {tuple(features.shape)[1:]}, needed: a vector")
    scores = layers.Dense(classes, name="logits")(features)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(scores)


def _features(base: Reused, model: Any) -> Any:
    """What goes into the last layer with weights."""
    last = max((place for place, layer in enumerate(model.layers) if layer.weights), default=None)
    if last is None:
        raise DataError(f"{base.title} has no weights")
    inner = model.layers[last]
    if not hasattr(inner, "layers"):
        return inner.input
    # the outer models of a custom network are plain chains
    return keras.Model(inner.inputs[0], _features(base, inner), name=inner.name)(model.layers[last - 1].output)


def _check_probabilities(base: Reused, model: Any) -> None:
    """A look at one answer: logits would train to nonsense without an error."""
    answer = model(np.zeros((1, *model.inputs[0].shape[1:]), model.inputs[0].dtype), training=False).numpy()
    if answer.min() < 0 or abs(float(answer.sum()) - 1) > 1e-3:
        raise DataError(f"{base.title} does not answer with probabilities, which add up to 1: use fine_tuning.head=new")


def _every_layer(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _every_layer(layer)
        else:
            yield layer


def _with_weights(model: Any, names: tuple[str, ...] = ()) -> Iterator[_Layer]:
    """Layers that can learn, from the input up; what is inside of a layer belongs to it, of a model does not."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _with_weights(layer, (*names, layer.name))
        elif layer.trainable_weights:
            yield _Layer(layer, (*names, layer.name))


@dataclass
class Phases:
    """What of a network learns when: the head alone, then what `unfreeze` names.

    Each phase begins as a training of its own: optimizer and schedule start anew.
    """

    model: Any
    parameters: TrainParameters
    updates_per_epoch: int
    head: list[_Layer]
    upper: list[_Layer]
    """Below the head; learn in the second phase."""
    entered: bool | None = None
    """Whether the phase that the model is set for is the second one."""
    fresh: list[float] = field(default_factory=list)
    """What each variable of the optimizer is filled with at the start."""

    def build(self) -> None:
        """Make the optimizer's variables for all weights that ever learn, so that each checkpoint has the same."""
        self._set_trainable(second=True)
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)
        self.fresh = [float(np.ravel(variable.value.numpy())[0]) for variable in optimizer.variables]

    def enter(self, epoch: int, *, begins: bool) -> bool:
        """Set the model for the phase of an epoch.

        Args:
            epoch: From 0.
            begins: Whether no step of this epoch has been taken.

        Returns:
            Whether that changed what learns: then the step must be made anew.
        """
        frozen = frozen_epochs(self.parameters)
        second = epoch >= frozen
        if self.entered == second:
            return False
        self.entered = second
        self._set_trainable(second=second)
        optimizer = self.model.optimizer
        if begins and epoch == frozen:
            for variable, value in zip(optimizer.variables, self.fresh, strict=True):
                variable.assign(np.full(variable.shape, value))
        schedule = by_step(of_phase(self.parameters, epoch), self.updates_per_epoch)
        if begins or not isinstance(schedule, float):  # else the checkpoint has it
            optimizer.learning_rate = schedule
        return True

    def _set_trainable(self, *, second: bool) -> None:
        learning = {id(one.layer) for one in (*self.head, *(self.upper if second else ()))}
        for layer in _every_layer(self.model):
            layer.trainable = id(layer) in learning or not layer.weights


def phases(model: Any, parameters: TrainParameters, updates_per_epoch: int) -> Phases | None:
    """The phases of a compiled model, whose optimizer gets the rates of its layers; None when it is not fine-tuned.

    Raises:
        ConfigError: When `fine_tuning` names what the network does not have.
    """
    tuning = parameters.fine_tuning
    if tuning is None:
        return None
    model.trainable = True
    every = list(_with_weights(model))
    head = _head(model, every)
    below = every[: len(every) - len(head)]
    upper = below[_cut(tuning.unfreeze, below) :]
    if tuning.batch_norm == "inference":
        upper = [one for one in upper if not one.is_batch_norm]
    _set_rates(model.optimizer, _factors(tuning, head, below))
    return Phases(model, parameters, updates_per_epoch, head, upper)


def _head(model: Any, every: list[_Layer]) -> list[_Layer]:
    """What comes after a nested backbone; without one, the last layer with weights."""
    after = 0
    for layer in reversed(model.layers):
        if hasattr(layer, "layers"):
            break
        after += bool(layer.trainable_weights)
    else:
        after = 1
    return every[len(every) - max(1, after) :]


def _cut(unfreeze: int | str, below: list[_Layer]) -> int:
    """How many of the layers below the head, from the input up, never learn."""
    if unfreeze == "all":
        return 0
    if isinstance(unfreeze, str):
        return min(_members(unfreeze, below, "fine_tuning.unfreeze"))
    places = [place for place, one in enumerate(below) if not one.is_batch_norm]
    if unfreeze > len(places):
        raise ConfigError(
            f"fine_tuning.unfreeze={unfreeze}, but below the head there are {len(places)} layers with weights: choose "
            f"{len(places)} or less, or all"
        )
    return places[-unfreeze] if unfreeze else len(below)


def _members(block: str, every: list[_Layer], title: str) -> list[int]:
    """Places of the layers of a block: in it by name, or whose names begin with its own."""
    exact = [place for place, one in enumerate(every) if block in one.names]
    found = exact or [place for place, one in enumerate(every) if one.belongs_to(block)]
    if not found:
        names = [one.names[-1] for one in every]
        shown = ", ".join([*names[:3], "...", *names[-6:]] if len(names) > 9 else names)
        raise ConfigError(
            f"{title}: the network has no block or layer {block!r}: {did_you_mean(block, names)}; from the input up "
            f"they are {shown}"
        )
    return found


def _factors(tuning: FineTuning, head: list[_Layer], below: list[_Layer]) -> dict[Any, float]:
    """What the learning rate of each weight is multiplied by, where it is not 1, by the weight's key."""
    every = [*below, *head]
    factors = [1.0] * len(every)
    depth = 0
    for place in reversed(range(len(below))):
        depth += not below[place].is_batch_norm
        factors[place] = tuning.layer_decay ** (depth + below[place].is_batch_norm)
    for block in sorted(tuning.multipliers, key=len):  # a longer name says it more exactly
        for place in _members(block, every, "fine_tuning.multipliers"):
            factors[place] = tuning.multipliers[block]
    return {
        _key(weight): factor
        for one, factor in zip(every, factors, strict=True)
        for weight in one.layer.trainable_weights
        if factor != 1
    }


def _key(weight: Any) -> Any:
    """What tells a weight, as Keras or TensorFlow has it, from all others."""
    return (weight.value if isinstance(weight, keras.Variable) else weight).ref()


def _set_rates(optimizer: Any, factors: dict[Any, float]) -> None:
    """Give weights learning rates of their own; decoupled weight decay follows them."""
    if not factors:
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    update = inner.update_step

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        update(gradient, variable, learning_rate * factors.get(_key(variable), 1.0))

    def weight_decay(variables: Sequence[Any]) -> None:
        if inner.weight_decay is None:
            return
        for variable in variables:
            share = inner.weight_decay * inner.learning_rate * factors.get(_key(variable), 1.0)
            variable.assign_sub(variable * keras.ops.cast(share, variable.dtype))

    inner.update_step = update_step
    inner._apply_weight_decay = weight_decay
