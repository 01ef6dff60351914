"""A model's answers to a channel of records, batch after batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from millrace.errors import DataError, TaskFailedError
from millrace.runtime.datasets import damage_explained, decoded_dataset, total_records
from millrace.runtime.models import Predictor
from millrace.runtime.schemas import Channel

__all__ = ["Answers", "Mistake", "answer"]

_THUMBNAIL = 160


class Mistake(NamedTuple):
    """A record that was taken for another class."""

    probability: float
    """Of the predicted class."""
    true: int
    predicted: int
    uri: str
    example: NDArray[Any]
    """The image, the tokens of the text, or the features of the row."""

    def thumbnail(self) -> bytes:
        """The image as PNG, at most 160 pixels a side."""
        picture = Image.fromarray(self.example.squeeze(axis=-1) if self.example.shape[-1] == 1 else self.example)
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        stream = io.BytesIO()
        picture.save(stream, format="png", optimize=True)
        return stream.getvalue()


@dataclass(frozen=True)
class Answers:
    """What a model says about every record of a channel, in the records' order."""

    probabilities: NDArray[np.float32]
    """[N, classes]."""
    labels: NDArray[np.int64]
    """True classes [N]."""
    first: NDArray[Any]
    """The first image, text's tokens or row's features."""
    mistakes: tuple[Mistake, ...] = field(repr=False)
    """The most confident mistakes, most confident first."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes [N]."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.predicted == self.labels).mean())


def answer(
    predictor: Predictor,
    records: Path,
    channel: Channel,
    *,
    batch_size: int,
    mistakes: int = 0,
    keep: Callable[[Sequence[bytes], NDArray[np.int64], NDArray[np.float32]], None] = lambda *batch: None,
    progress: Callable[[int], None] = lambda records: None,
) -> Answers:
    """Ask a model about every record of a channel.

    Memory holds one batch of records, the probabilities of all and the records of the mistakes asked for.

    Args:
        predictor: The model.
        records: A Records artifact of the model's size and classes.
        channel: The channel, which must have records.
        batch_size: Records asked about at once.
        mistakes: How many mistakes to keep.
        keep: Given the URIs, true classes [N] and probabilities [N, classes] of each batch.
        progress: Told the number of records of each batch.

    Raises:
        DataError: When a record can't be read or has a label that is no class.
        TaskFailedError: When the model answers with something that is no number.
    """
    total, classes = total_records(records, channel), len(predictor.card.records.classes)
    probabilities = np.empty((total, classes), np.float32)
    labels = np.empty(total, np.int64)
    kept: list[Mistake] = []
    first: NDArray[Any] | None = None
    start = 0
    for examples, some, uris in _batches(records, channel, batch_size):
        end = start + len(some)
        if some.min() < 0 or some.max() >= classes:
            raise DataError(f"{records}: channel {channel!r} has a label that is none of its {classes} classes")
        probabilities[start:end] = _finite(predictor.predict(examples), predictor)
        labels[start:end] = some
        first = examples[0] if first is None else first
        kept = _most_confident(kept, probabilities[start:end], some, examples, uris, mistakes)
        keep(uris, some, probabilities[start:end])
        progress(len(some))
        start = end
    if first is None:
        raise DataError(f"{records}: channel {channel!r} has no records")
    return Answers(probabilities=probabilities, labels=labels, first=first.copy(), mistakes=tuple(kept))


def _batches(
    records: Path, channel: Channel, size: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], Sequence[bytes]]]:
    dataset = decoded_dataset(records, channel, with_uri=True).batch(size).prefetch(1)
    with damage_explained(records, channel):
        yield from dataset.as_numpy_iterator()


def _finite(probabilities: NDArray[np.float32], predictor: Predictor) -> NDArray[np.float32]:
    if not np.isfinite(probabilities).all():
        raise TaskFailedError(
            f"model {predictor.card.name!r} answers NaN or infinity as a probability: "
            f"its weights are broken, train it anew"
        )
    return probabilities


def _most_confident(
    kept: list[Mistake],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    examples: NDArray[Any],
    uris: Sequence[bytes],
    limit: int,
) -> list[Mistake]:
    """The most confident mistakes of those kept and those of a batch; of equal ones the earlier."""
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    added = [
        Mistake(
            probability=float(confidence[index]),
            true=int(labels[index]),
            predicted=int(predicted[index]),
            uri=uris[index].decode("utf-8", "replace"),
            example=examples[index].copy(),
        )
        for index in wrong.tolist()
    ]
    return sorted(kept + added, key=lambda mistake: -mistake.probability)[:limit]
