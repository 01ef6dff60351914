"""The values of columns in the training rows, read as texts, numbers and dates: of many columns at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.runtime.values import as_dates, as_numbers, as_texts, stacked

__all__ = ["ColumnValues", "Reading", "read_at_once", "read_texts", "rule_out"]

Read = tuple[NDArray[Any], NDArray[np.bool_]]
"""What values are, NaN or NaT where they are missing or no such thing; and which of them are no such thing."""

_NEARLY = 0.99
"""Part of the values that must be numbers, or dates, for the others to be told as mistakes."""


class Reading(NamedTuple):
    """A way to read values."""

    kind: Literal["number", "date"]
    form: str | None
    """What numbers have before a fraction; or the format of dates, None for ISO 8601."""

    def read(self, values: pl.Series) -> Read:
        """What values are, each for itself."""
        if self.kind == "date":
            dates, wrong = as_dates(values, self.form)
            return dates.to_numpy(), wrong
        numbers, wrong = as_numbers(values, self.form or ".")
        return numbers + 0.0, wrong  # of equal numbers, which comes first when they are sorted shall not matter


class ColumnValues:
    """A column's values; what they are read as is kept."""

    def __init__(self, name: str, parts: Sequence[pl.Series], texts: Sequence[pl.Series]) -> None:
        self.name = name
        self.parts = parts
        self.texts = texts[0] if len(texts) == 1 else pl.concat(texts)
        """Null where a value is missing."""
        self.missing = self.texts.null_count()
        """How many are."""
        self.given = self.texts.drop_nulls() if self.missing else self.texts
        """Texts of the others."""
        self.tolerated = int((1 - _NEARLY) * len(self.given))
        """So many may be something else than all others, for these to be told as mistakes."""
        self.ruled_out: set[Reading] = set()
        """What more of the values are not than are tolerated."""
        self._read: dict[Reading, list[Read]] = {}

    def read(self, reading: Reading) -> list[Read]:
        """What the values are, part by part."""
        if reading not in self._read:
            self._read[reading] = [reading.read(part) for part in self.parts]
        return self._read[reading]

    def keep(self, reading: Reading, read: list[Read]) -> None:
        """Take what `read` would give."""
        self._read[reading] = read

    def sample(self) -> pl.Series | None:
        """One value more than is tolerated, none of them missing; None when there are no such many at hand."""
        part = self.parts[0]
        if self.missing:
            part = part.filter(self.texts[: len(part)].is_not_null())
        return part[: self.tolerated + 1] if len(part) > self.tolerated else None


def read_texts(columns: Mapping[str, Sequence[pl.Series]]) -> list[ColumnValues]:
    """Columns with their texts.

    Args:
        columns: The values of each, in parts; one part at least.

    Raises:
        DataError: When one holds lists, structures or bytes.
    """
    parts = [part for some in columns.values() for part in some]
    texts = list(parts)
    for places, values in stacked(parts):
        made = as_texts(values)
        for at, span in _spans(parts, places):
            texts[at] = made.slice(span.start, span.stop - span.start)
    left = iter(texts)
    return [ColumnValues(name, some, [next(left) for _ in some]) for name, some in columns.items()]


def read_at_once(columns: Sequence[ColumnValues], reading: Reading) -> None:
    """Read columns, so that each has it."""
    parts = [part for column in columns for part in column.parts]
    read: dict[int, Read] = {}
    for places, values in stacked(parts):
        found, wrong = reading.read(values)
        read.update((at, (found[span], wrong[span])) for at, span in _spans(parts, places))
    following = iter(range(len(parts)))
    for column in columns:
        column.keep(reading, [read[next(following)] for _ in column.parts])


def rule_out(columns: Sequence[ColumnValues], reading: Reading) -> list[ColumnValues]:
    """Tell the columns of which the first values are no such thing, and they are too many; a part of all such."""
    samples = [(column, sample) for column in columns if (sample := column.sample()) is not None]
    found: list[ColumnValues] = []
    some = [sample for _, sample in samples]
    for places, values in stacked(some):
        _, wrong = reading.read(values)
        found.extend(samples[at][0] for at, span in _spans(some, places) if wrong[span].all())
    for column in found:
        column.ruled_out.add(reading)
    return found


def _spans(columns: Sequence[pl.Series], places: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Where each of some columns is when their values are one after the other."""
    start = 0
    for at in places:
        end = start + len(columns[at])
        yield at, slice(start, end)
        start = end
