"""Learning rates over time, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Constant", "Cosine", "EarlyStopping", "Exponential", "Monitor", "Piecewise", "ReduceOnPlateau", "Schedule"]

Monitor = Literal["validation_loss", "validation_accuracy", "loss", "accuracy"]


class _Rising(Parameters):
    """What all schedules have."""

    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs in which the learning rate first rises from zero, in a straight line; parts of an epoch are allowed."""


class Constant(_Rising):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Cosine(_Rising):
    """Half a cosine down, from the end of the warm-up to the last epoch."""

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(default=0.0, ge=0, le=1)
    """Last learning rate, as a share of the highest."""


class Exponential(_Rising):
    """Multiplied by a rate at a steady pace, from the end of the warm-up on."""

    kind: Literal["exponential"] = "exponential"
    rate: float = Field(default=0.9, gt=0, le=1)
    """Factor a period."""
    epochs: float = Field(default=1.0, gt=0)
    """Length of a period in epochs."""
    staircase: bool = Field(default=False)
    """Change at the end of each period only."""


class Piecewise(_Rising):
    """A factor for each stretch of epochs."""

    kind: Literal["piecewise"] = "piecewise"
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 15), min_length=1)
    """After how many epochs the next factor holds, rising; those of the warm-up count."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.01), min_length=1)
    """Share of `learning_rate` from then on, one for each of `epochs`."""

    @model_validator(mode="after")
    def _paired(self) -> Piecewise:
        if len(self.epochs) != len(self.factors) or sorted(set(self.epochs)) != list(self.epochs):
            raise ValueError(f"epochs must rise, with one factor each: {self.epochs} and {self.factors}")
        return self


class ReduceOnPlateau(_Rising):
    """Multiplied by a factor when the monitored number stops getting better. Epochs of the warm-up do not count."""

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
    max_gap: float | None = Field(default=None, gt=0, le=1)
    """Training accuracy above validation accuracy by more than this for `patience` epochs ends training (overfit)."""
    restore_best: bool = Field(default=True)
    """Save the weights of the best epoch instead of the last."""
