"""Several models side by side, and the simplest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from millrace.runtime.schemas import ModelCard

__all__ = ["Compared", "simplest"]

_ROUNDING = 1e-9


class Compared(NamedTuple):
    """A model and what it costs."""

    title: str
    """`model` or `candidate N`."""
    card: ModelCard
    accuracy: float
    latency_ms: float


def simplest(models: Sequence[Compared], tolerance: float) -> int:
    """The index of the simplest model within `tolerance` of the best accuracy.

    Simplest is the one with the fewest parameters, then with the smallest file, then the first.
    """
    least = max(model.accuracy for model in models) - tolerance - _ROUNDING
    good = [index for index, model in enumerate(models) if model.accuracy >= least]
    return min(good, key=lambda index: (models[index].card.parameters, models[index].card.bytes))
