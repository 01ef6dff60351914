"""Several models side by side, and the simplest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from millrace.errors import DataError
from millrace.runtime.schemas import ImageRecords, ModelCard

__all__ = ["Compared", "check_fits", "simplest"]

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


def check_fits(title: str, card: ModelCard, schema: ImageRecords) -> None:
    """Check that a model answers about images of the records' size, with the records' classes.

    Raises:
        DataError: Saying in what they differ.
    """
    given, needed = card.records, schema
    sizes = [(item.height, item.width, item.channels) for item in (given, needed)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"{title} ({card.name!r}) takes images of {_size(given)}, the records are {_size(needed)}: "
            f"use records that were made with the model's size, or train it on these"
        )
    if given.classes != needed.classes:
        raise DataError(
            f"{title} ({card.name!r}) and the records have different classes: {_difference(given, needed)}: "
            f"use records with the model's classes, or train it on these"
        )


def _size(schema: ImageRecords) -> str:
    return f"{schema.height} x {schema.width} pixels with {schema.channels} channel{'s' if schema.channels > 1 else ''}"


def _difference(given: ImageRecords, needed: ImageRecords) -> str:
    unknown = sorted(set(needed.classes) - set(given.classes))
    lacking = sorted(set(given.classes) - set(needed.classes))
    if not unknown and not lacking:
        return "the same names in another order"
    parts = [(unknown, "only in the records"), (lacking, "only in the model")]
    return ", ".join(f"{_some(names)} {where}" for names, where in parts if names)


def _some(names: Sequence[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + rest
