"""Learning rates over time, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Constant", "Cosine", "EarlyStopping", "Exponential", "Monitor", "Piecewise", "ReduceOnPlateau", "Schedule"]

Monitor = Literal["validation_loss", "validation_accuracy", "loss", "accuracy"]


class Constant(Parameters):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Cosine(Parameters):
    """A linear rise, then half a cosine down, over all epochs."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of the rise from zero; parts of an epoch are allowed."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Last learning rate, as a share of the highest."""


class Exponential(Parameters):
    """Multiplied by a rate at a steady pace."""

    kind: Literal["exponential"] = "exponential"
    rate: float = Field(default=0.9, gt=0, le=1)
    """Factor a period."""
    epochs: float = Field(default=1.0, gt=0)
    """Length of a period in epochs."""
    staircase: bool = Field(default=False)
    """Change at the end of each period only."""


class Piecewise(Parameters):
    """A factor for each stretch of epochs."""

    kind: Literal["piecewise"] = "piecewise"
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 15), min_length=1)
    """After how many epochs the next factor holds, rising."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.01), min_length=1)
    """Share of `learning_rate` from then on, one for each of `epochs`."""

    @model_validator(mode="after")
    def _paired(self) -> Piecewise:
        if len(self.epochs) != len(self.factors) or sorted(set(self.epochs)) != list(self.epochs):
            raise ValueError(f"epochs must rise, with one factor each: {self.epochs} and {self.factors}")
        return self


class ReduceOnPlateau(Parameters):
    """Multiplied by a factor when the monitored number stops getting better."""

    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    monitor: Monitor = Field(default="validation_loss")
    """The number to watch."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """What the learning rate is multiplied by."""
    patience: int = Field(default=3, ge=1)
    """Epochs without improvement before the learning rate is reduced."""
    min_delta: float = Field(default=1e-4, ge=0)
    """A change smaller than this is no improvement."""
    minimum: float = Field(default=1e-6, ge=0)
    """The learning rate never goes below this."""


Schedule = Annotated[Constant | Cosine | Exponential | Piecewise | ReduceOnPlateau, Field(discriminator="kind")]


class EarlyStopping(Parameters):
    """End before the last epoch when the monitored number stops getting better."""

    monitor: Monitor = Field(default="validation_loss")
    """The number to watch."""
    patience: int = Field(default=10, ge=1)
    """Epochs without improvement before training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """A change smaller than this is no improvement."""
    restore_best: bool = Field(default=True)
    """Save the weights of the best epoch instead of the last."""
