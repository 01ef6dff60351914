"""Ranks that train one model together: what they all do alike, whatever carries their numbers.

Every rank must call `total`, `agree` and `from_first` in the same order. No rank waits for another for longer than
it was told to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from millrace.errors import ConfigError

__all__ = ["Alone", "Part", "Ranks"]


class Part(NamedTuple):
    """The places of a batch that one rank has."""

    first: int
    end: int
    whole: int
    """Size of the batch on all ranks together."""

    @property
    def size(self) -> int:
        """Number of places."""
        return self.end - self.first


class Ranks(ABC):
    """This process among those that train one model."""

    def __init__(self, names: Sequence[str], index: int, seconds: float) -> None:
        """`names` are those of all ranks, `seconds` how long one waits for another."""
        self.names = tuple(names)
        self.index = index
        self.seconds = seconds
        self._wish = tf.Variable(tf.constant(0.0), trainable=False)
        self._heard = tf.Variable(tf.constant(0.0), trainable=False)

    @abstractmethod
    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """Sums over all ranks, to the same bits on each: one message for each dtype.

        Args:
            tensors: Of the same shapes and dtypes on every rank.
            name: The same on every rank. Sums that are taken at the same time, in one graph, need names of their own.
        """

    @abstractmethod
    def joined(self, tensor: Any, name: str) -> Any:
        """The tensors of all ranks one after another, along the first axis.

        Args:
            tensor: Of the same dtype and shape on every rank, but for its length.
            name: As for `total`.
        """

    @abstractmethod
    def ending_together(self) -> AbstractContextManager[None]:
        """Tell the others when this rank fails, and say which one was the first when another did.

        Raises:
            TransientError: When another rank is gone or does not answer.
            TaskFailedError: When another rank has told why it failed.
        """

    @abstractmethod
    def leave(self) -> None:
        """Mind no more whether the others are there: nothing will be added up from now on."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def first(self) -> bool:
        """Whether what this one writes is kept."""
        return self.index == 0

    def part(self, batch: int) -> Part:
        """The places of a batch that are this rank's."""
        return Part(self.index * batch // self.count, (self.index + 1) * batch // self.count, batch)

    def agree(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """`total`; with it all ranks learn whether one of them wishes to stop."""
        *sums, wishes = self.total([*tensors, self._wish.read_value()], name)
        self._heard.assign(wishes)
        return sums

    def wish_to_stop(self) -> None:
        """Have all ranks stop after what they agree on next."""
        self._wish.assign(1.0)

    @property
    def stopping(self) -> bool:
        """Whether a rank wished to stop when they last agreed; the same on all."""
        return float(self._heard) > 0

    def from_first(self, content: bytes) -> bytes:
        """The first rank's bytes, on every rank."""
        size = int(self.total([tf.constant(len(content) if self.first else 0, tf.int64)])[0])
        words = np.zeros(-(-size // 4), np.int32)
        if self.first:
            words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
        return bytes(self.total([tf.constant(words)])[0].numpy().tobytes()[:size])

    def check_same(self, text: str, what: str) -> None:
        """Compare something that must be the same everywhere.

        Raises:
            ConfigError: On all ranks, when the text is another one on some than on the first.
        """
        others = np.zeros(self.count, np.float32)
        others[self.index] = self.from_first(text.encode()) != text.encode()
        if names := [self.names[index] for index in np.flatnonzero(self.total([others])[0])]:
            raise ConfigError(
                f"{', '.join(names)} has other {what} than {self.names[0]}: every host needs all records, and takes "
                "its part of each step itself"
            )


class Alone(Ranks):
    """The only rank, for what is written for several."""

    def __init__(self) -> None:
        """There is nobody to wait for."""
        super().__init__(("localhost",), 0, 0.0)

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """The tensors themselves."""
        return list(tensors)

    def joined(self, tensor: Any, name: str) -> Any:
        """The tensor itself."""
        return tensor

    def ending_together(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def leave(self) -> None:
        """Nothing."""
