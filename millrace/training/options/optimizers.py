"""How gradients change the weights, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from millrace.specs import Parameters

__all__ = ["Adagrad", "Adam", "AdamW", "Lion", "Nadam", "Optimizer", "RmsProp", "Sgd"]

Probability = Annotated[float, Field(ge=0, lt=1)]


class Sgd(Parameters):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that is taken again."""
    nesterov: bool = Field(default=False)
    """Look ahead along the momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


class Adam(Parameters):
    """Adam."""

    kind: Literal["adam"] = "adam"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    amsgrad: bool = Field(default=False)
    """Never let the mean of squared gradients shrink."""


class AdamW(Parameters):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    weight_decay: float = Field(default=4e-3, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


class Nadam(Parameters):
    """Adam with Nesterov momentum."""

    kind: Literal["nadam"] = "nadam"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""


class RmsProp(Parameters):
    """RMSprop."""

    kind: Literal["rmsprop"] = "rmsprop"
    rho: Probability = Field(default=0.9)
    """Decay of the mean of squared gradients."""
    momentum: Probability = Field(default=0.0)
    """Share of the last step that is taken again."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    centered: bool = Field(default=False)
    """Divide by the deviation of gradients instead of their size."""


class Adagrad(Parameters):
    """Adagrad."""

    kind: Literal["adagrad"] = "adagrad"
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""


class Lion(Parameters):
    """Lion; wants a learning rate 3 to 10 times smaller than Adam's."""

    kind: Literal["lion"] = "lion"
    beta_1: float = Field(default=0.9, gt=0, le=1)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.99)
    """Decay of the mean of squared gradients."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


Optimizer = Annotated[Sgd | Adam | AdamW | Nadam | RmsProp | Adagrad | Lion, Field(discriminator="kind")]
