"""How gradients change the weights, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from millrace.specs import Parameters

__all__ = ["Adagrad", "Adam", "AdamW", "Lion", "Nadam", "Optimizer", "RmsProp", "Sgd"]

MeanDecay = Annotated[float, Field(ge=0, lt=1, description="Decay of the mean of gradients.")]
SquareDecay = Annotated[float, Field(ge=0, lt=1, description="Decay of the mean of squared gradients.")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="Share of the last step that is taken again.")]
Epsilon = Annotated[float, Field(gt=0, description="Keeps divisions away from zero.")]
WeightDecay = Annotated[
    float, Field(ge=0, description="Share of each weight taken away a step, times the learning rate.")
]


class Sgd(Parameters):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    nesterov: bool = False
    """Look ahead along the momentum."""
    weight_decay: WeightDecay = 0.0


class Adam(Parameters):
    """Adam."""

    kind: Literal["adam"] = "adam"
    beta_1: MeanDecay = 0.9
    beta_2: SquareDecay = 0.999
    epsilon: Epsilon = 1e-7
    amsgrad: bool = False
    """Never let the mean of squared gradients shrink."""


class AdamW(Parameters):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    beta_1: MeanDecay = 0.9
    beta_2: SquareDecay = 0.999
    epsilon: Epsilon = 1e-7
    weight_decay: WeightDecay = 4e-3


class Nadam(Parameters):
    """Adam with Nesterov momentum."""

    kind: Literal["nadam"] = "nadam"
    beta_1: MeanDecay = 0.9
    beta_2: SquareDecay = 0.999
    epsilon: Epsilon = 1e-7


class RmsProp(Parameters):
    """RMSprop."""

    kind: Literal["rmsprop"] = "rmsprop"
    rho: SquareDecay = 0.9
    momentum: Momentum = 0.0
    epsilon: Epsilon = 1e-7
    centered: bool = False
    """Divide by the deviation of gradients instead of their size."""


class Adagrad(Parameters):
    """Adagrad."""

    kind: Literal["adagrad"] = "adagrad"
    epsilon: Epsilon = 1e-7


class Lion(Parameters):
    """Lion; wants a learning rate 3 to 10 times smaller than Adam's."""

    kind: Literal["lion"] = "lion"
    beta_1: float = Field(default=0.9, gt=0, le=1)
    """Decay of the mean of gradients."""
    beta_2: SquareDecay = 0.99
    weight_decay: WeightDecay = 0.0


Optimizer = Annotated[Sgd | Adam | AdamW | Nadam | RmsProp | Adagrad | Lion, Field(discriminator="kind")]
