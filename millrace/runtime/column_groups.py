"""Columns that are taken in the same way, and their features made all at once.

Tables may have ten thousand columns: what is done for each of them in turn costs more than reading its values.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import tau
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.runtime.columns import (
    BinnedColumn,
    CategoryColumn,
    DateColumn,
    FittedColumn,
    HashedColumn,
    NumericColumn,
)
from millrace.runtime.values import as_dates, as_numbers, as_texts, date_parts

__all__ = ["Group", "Wrong", "column_groups"]

Features = NDArray[np.float32]
"""Of all columns, a feature after the other, zeros at first, [width, rows]."""
Wrong = list[tuple[NDArray[np.bool_], str]]
"""Which values can't be taken, [columns, rows], and why."""

_Column = TypeVar("_Column", bound=FittedColumn)

_CYCLES: Mapping[str, tuple[int, int]] = {
    "month": (1, 12), "day": (1, 31), "weekday": (1, 7), "hour": (0, 24), "minute": (0, 60)
}  # fmt: skip
_TOO_LARGE = "is too large: beside the training values it is more than a 32-bit float can hold, 3.4e38"
_NO_DATE = "is no date"


class Group(ABC):
    """Columns that are taken in the same way."""

    of_numbers = False
    """Whether their values may be given as floats where they were numbers in JSON; else as text."""

    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        self.members = members
        """Their places among all columns."""
        self.names = [columns[at].name for at in members]
        self._first = np.array([starts[at] for at in members], np.intp)
        self._last = np.array([starts[at + 1] - 1 for at in members], np.intp)

    @abstractmethod
    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        """Write the features of some columns.

        Args:
            found: Takes them.
            values: Of these columns, one column after the other, all as long as `found` has rows.
            which: The columns, as they are numbered in this group.
        """

    def _mark(
        self, found: Features, which: Sequence[int], places: NDArray[np.integer], missing: NDArray[np.bool_]
    ) -> None:
        """Write a 1 at each value's place, in the column's last one where the value is missing; all [columns, rows]."""
        first, last = self._first[which, np.newaxis], self._last[which, np.newaxis]
        found[np.where(missing, last, first + places), np.arange(found.shape[1])] = 1


def column_groups(columns: Sequence[FittedColumn]) -> list[Group]:
    """All columns, those together that can be taken together."""
    starts = [0, *accumulate(column.width for column in columns)]
    alike: dict[object, list[int]] = {}
    for at, column in enumerate(columns):
        alike.setdefault(_alike(column, at), []).append(at)
    return [_GROUPS[columns[members[0]].kind](members, columns, starts) for members in alike.values()]


def _alike(column: FittedColumn, at: int) -> object:
    """Equal for columns that can be taken together."""
    match column:
        case NumericColumn() | BinnedColumn():
            return column.kind, column.decimal
        case CategoryColumn():
            return column.kind
        case HashedColumn():
            return column.kind, column.buckets
        case DateColumn():
            return column.kind, at


class _Numbers(Group):
    of_numbers = True

    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        super().__init__(members, columns, starts)
        own = _of_kind(NumericColumn, members, columns)
        self._decimal = own[0].decimal
        self._shift = np.array([[column.shift] for column in own])
        self._scale = np.array([[column.scale] for column in own])
        self._missing = np.array([[column.missing] for column in own])
        self._indicator = np.array([column.indicator for column in own])

    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        numbers, missing, wrong = _numbers(values, self._decimal, len(which))
        with np.errstate(over="ignore"):  # which is found below
            scaled = (np.where(missing, self._missing[which], numbers) - self._shift[which]) / self._scale[which]
            made = scaled.astype(np.float32)
        found[self._first[which]] = made
        marked = self._indicator[which]
        found[self._last[which][marked]] = missing[marked]
        return [(wrong, _no_number(self._decimal)), (~np.isfinite(made) & ~wrong, _TOO_LARGE)]


class _Bins(Group):
    of_numbers = True

    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        super().__init__(members, columns, starts)
        own = _of_kind(BinnedColumn, members, columns)
        self._decimal = own[0].decimal
        self._edges = [np.array(column.edges) for column in own]

    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        numbers, missing, wrong = _numbers(values, self._decimal, len(which))
        places = np.zeros(numbers.shape, np.intp)
        for at, column in enumerate(which):
            places[at] = np.searchsorted(self._edges[column], numbers[at], side="right")
        self._mark(found, which, places, missing)
        return [(wrong, _no_number(self._decimal))]


class _Categories(Group):
    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        super().__init__(members, columns, starts)
        own = [
            {value: place for place, value in enumerate(column.values)}
            for column in _of_kind(CategoryColumn, members, columns)
        ]
        self._numbers: dict[str, int] = {}
        for values in own:
            for value in values:
                self._numbers.setdefault(value, len(self._numbers))
        pairs = sorted(
            (at * len(self._numbers) + self._numbers[value], place)
            for at, values in enumerate(own)
            for value, place in values.items()
        )
        # A column and a value as one number, rising; and the place of the value among those of the column.
        self._pairs = np.array([(-1, -1), *pairs], np.int64)

    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        texts = as_texts(values)
        shape = len(which), found.shape[1]
        numbers = _numbered(texts, lambda text: self._numbers.get(text, -1)).reshape(shape)
        pairs = np.array(which)[:, np.newaxis] * len(self._numbers) + numbers
        pairs[numbers < 0] = -1
        at = np.searchsorted(self._pairs[:, 0], pairs, side="right") - 1
        known = (self._pairs[at, 0] == pairs) & (numbers >= 0)
        others = (self._last - self._first - 1)[which, np.newaxis]
        places = np.where(known, self._pairs[at, 1], others)
        self._mark(found, which, places, texts.is_null().to_numpy().reshape(shape))
        return []


class _Hashed(Group):
    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        super().__init__(members, columns, starts)
        self._buckets = _of_kind(HashedColumn, members, columns)[0].buckets

    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        texts = as_texts(values)
        shape = len(which), found.shape[1]
        places = _numbered(texts, lambda text: _hash(text) % self._buckets).reshape(shape)
        self._mark(found, which, places, texts.is_null().to_numpy().reshape(shape))
        return []


class _Date(Group):
    """One column: tables have few of them."""

    def __init__(self, members: Sequence[int], columns: Sequence[FittedColumn], starts: Sequence[int]) -> None:
        super().__init__(members, columns, starts)
        (self._column,) = _of_kind(DateColumn, members, columns)

    def fill(self, found: Features, values: pl.Series, which: Sequence[int]) -> Wrong:
        column = self._column
        dates, wrong = as_dates(values, column.format)
        missing = dates.is_null().to_numpy()
        part = found[self._first[0] : self._last[0] + 1]
        at = 0
        for name in column.parts:
            numbers = date_parts(dates, name)
            if name in _CYCLES:
                first, length = _CYCLES[name]
                angles = tau * (numbers - first) / length
                part[at], part[at + 1] = np.sin(angles), np.cos(angles)
                at += 2
            else:
                part[at] = (numbers - column.shifts[name]) / column.scales[name]
                at += 1
        part[:, missing] = 0
        part[at] = missing
        wanted = "2024-01-31 or 2024-01-31T12:30:59" if column.format is None else column.format
        problem = f"{_NO_DATE}: write it as {wanted}, and nothing, NA or null for a missing one"
        return [(wrong[np.newaxis], problem)]


_GROUPS: Mapping[str, type[Group]] = {
    "numeric": _Numbers, "bins": _Bins, "category": _Categories, "hashed": _Hashed, "date": _Date
}  # fmt: skip


def _of_kind(kind: type[_Column], members: Sequence[int], columns: Sequence[FittedColumn]) -> list[_Column]:
    return [column for column in (columns[at] for at in members) if isinstance(column, kind)]


def _numbers(
    values: pl.Series, decimal: str, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Numbers; where they are missing or none; and where they are none: [columns, rows]."""
    numbers, wrong = as_numbers(values, decimal)
    shape = columns, len(values) // columns
    return numbers.reshape(shape), np.isnan(numbers).reshape(shape), wrong.reshape(shape)


def _no_number(decimal: str) -> str:
    return f"is no number: write it as 1{decimal}5, -2 or 1e3, and nothing, NA or null for a missing one"


def _numbered(texts: pl.Series, number: Callable[[str], int]) -> NDArray[np.int64]:
    """A number of each text, asked once for equal ones; 0 where it is missing."""
    different = texts.drop_nulls().unique()
    if not len(different):
        return np.zeros(len(texts), np.int64)
    numbers = pl.Series([number(text) for text in different], dtype=pl.Int64)
    return texts.replace_strict(different, numbers, default=0, return_dtype=pl.Int64).fill_null(0).to_numpy()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
