"""What is kept of each object: columns on disk, and a few numbers in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.parts import Parts

__all__ = ["NOWHERE", "Names", "Objects"]

NOWHERE = -1
"""The channel of an object that is in no channel's folder; else it is an index of `CHANNELS`."""


@dataclass
class Objects:
    """Objects in the order of the listing: 14 bytes of memory each, 8 more with groups, and with chosen columns."""

    parts: Parts
    """What else is known of them, in the same order."""
    label: NDArray[np.int32]
    """Number of the class, by `Names`."""
    folder: NDArray[np.int8]
    """The channel of whose folder it lies in."""
    content: NDArray[np.uint64]
    """Hash of the content."""
    group: NDArray[np.uint64] | None
    """Hash of the group, 0 for none; None when there are no groups."""
    row_digest: NDArray[np.uint64] | None
    """Hash of the whole row, when `content` is of some columns only."""
    inside: NDArray[np.bool_]
    """Whether it is taken: not set aside."""

    def __len__(self) -> int:
        return len(self.inside)

    def units(self) -> NDArray[np.uint64]:
        """A number for each object: those that must stay together have the same."""
        return self.content if self.group is None else np.where(self.group == 0, self.content, self.group)


class Names:
    """Classes by number: those that are wanted, or as they are met."""

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._numbers = {name: number for number, name in enumerate(wanted)}

    def numbers(self, labels: pl.Series) -> NDArray[np.int32]:
        """Number of each label, -1 for null."""
        known = labels.drop_nulls().unique(maintain_order=True)
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in known]
        if not numbers:
            return np.full(len(labels), -1, np.int32)
        coded = labels.replace_strict(known, pl.Series(numbers, dtype=pl.Int32), return_dtype=pl.Int32, default=None)
        return coded.fill_null(-1).to_numpy()

    def all(self) -> tuple[str, ...]:
        """By number."""
        return tuple(self._numbers)
