"""From rows of tables to the features that a model sees; the same for records and for serving.

What a value is depends on nothing but itself and what was learnt of its column: see `millrace.runtime.values`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import DataError, did_you_mean
from millrace.runtime.column_groups import Group, column_groups
from millrace.runtime.columns import BinnedColumn, FittedColumn, NumericColumn
from millrace.runtime.schemas import TabularRecords
from millrace.runtime.values import WHOLE, check_kind, stacked

__all__ = ["Featurizer", "Flaw", "features", "row_features", "transform"]

_SHOWN = 60  # characters of a value in a message
_LARGE = 1e300
"""Numbers of JSON from here on are looked at one by one: whole ones may be more than a float holds."""
_PLAIN = {str, int, float, bool, NoneType}


class Flaw(NamedTuple):
    """A value that can't be taken."""

    row: int
    """From 0."""
    column: str
    problem: str
    """The value and what is allowed."""


class Featurizer:
    """Makes features of rows. What does not depend on them is worked out once."""

    def __init__(self, columns: Sequence[FittedColumn], ignored: Collection[str] = ()) -> None:
        """Take what becomes of columns; `ignored` are columns that rows may have as well, with any values."""
        self.columns = columns
        self.names = dict.fromkeys(column.name for column in columns)
        """In their order."""
        self.known = {*self.names, *ignored}
        self._groups = column_groups(columns)
        self._width = sum(column.width for column in columns)

    def of_table(self, frame: pl.DataFrame) -> tuple[NDArray[np.float32], list[Flaw]]:
        """As `transform`."""
        return self._made(_Table(frame, self.columns), frame.height)

    def of_rows(self, rows: Sequence[Mapping[str, object]]) -> NDArray[np.float32]:
        """As `row_features`."""
        for number, row in enumerate(rows):
            if not row.keys() <= self.known:
                unknown = next(name for name in row if name not in self.known)
                raise DataError(f"row {number}: unknown column {unknown!r}: {did_you_mean(str(unknown), self.names)}")
        return _without_flaws(*self._made(_Rows(rows, self.columns), len(rows)))

    def _made(self, source: _Table | _Rows, rows: int) -> tuple[NDArray[np.float32], list[Flaw]]:
        found = np.zeros((self._width, rows), np.float32)
        wrong: list[tuple[int, int, int, str]] = []
        for group in self._groups:
            for which, values in source.values(group):
                for order, (places, problem) in enumerate(group.fill(found, values, which)):
                    for column, row in zip(*(at.tolist() for at in np.nonzero(places)), strict=True):
                        wrong.append((group.members[which[column]], order, row, problem))
        flaws = [
            Flaw(row, self.columns[at].name, f"{_shown(source.value(at, row))} {problem}")
            for at, _, row, problem in sorted(wrong)
        ]
        return np.ascontiguousarray(found.T), flaws


def features(frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> NDArray[np.float32]:
    """The features of rows, [rows, width].

    Args:
        frame: With these columns, as text or typed; it may have others.
        columns: What becomes of each.

    Raises:
        DataError: When a column is missing, or a value can't be taken; it names row, column and value.
    """
    return _without_flaws(*transform(frame, columns))


def transform(frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> tuple[NDArray[np.float32], list[Flaw]]:
    """As `features`, but all values that can't be taken are given; their features are of no use.

    Raises:
        DataError: When a column is missing, or nothing of it can be taken: it holds lists for one.
    """
    return Featurizer(columns).of_table(frame)


def row_features(rows: Sequence[Mapping[str, object]], schema: TabularRecords) -> NDArray[np.float32]:
    """The features of rows of JSON values, [rows, width]; keys that are left out are missing values.

    Columns that the schema ignores may have any value.

    Raises:
        DataError: When a key is no column of the training tables, or a value can't be taken; it names row, column and
            value.
    """
    return Featurizer(schema.columns, schema.ignored).of_rows(rows)


def _without_flaws(found: NDArray[np.float32], flaws: Sequence[Flaw]) -> NDArray[np.float32]:
    if flaws:
        first = min(flaws)
        raise DataError(f"row {first.row}, column {first.column!r}: {first.problem}")
    return found


class _Table:
    """The values of a table's columns."""

    def __init__(self, frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> None:
        there = {values.name: values for values in frame.get_columns()}
        self._columns: list[pl.Series] = []
        kinds: set[pl.DataType] = set()
        for column in columns:
            values = there.get(column.name)
            if values is None:
                raise DataError(f"there is no column {column.name!r}: {did_you_mean(column.name, there)}")
            if values.dtype not in kinds:
                check_kind(values)
                kinds.add(values.dtype)
            self._columns.append(values)

    def value(self, at: int, row: int) -> object:
        return self._columns[at][row]

    def values(self, group: Group) -> Iterator[tuple[list[int], pl.Series]]:
        """Those of a group's columns, of one type after the other: which columns, and their values."""
        yield from stacked([self._columns[at] for at in group.members])


class _Rows:
    """Values of JSON, as a table would have them."""

    def __init__(self, rows: Sequence[Mapping[str, object]], columns: Sequence[FittedColumn]) -> None:
        self._rows = rows
        self._columns = columns
        if not all(map(_is_plain, rows)):
            for at in range(len(columns)):
                self._texts((at,))

    def value(self, at: int, row: int) -> object:
        column = self._columns[at]
        return _written(self._rows[row].get(column.name), row, column)

    def values(self, group: Group) -> Iterator[tuple[list[int], pl.Series]]:
        """Those of a group's columns."""
        getters = [row.get for row in self._rows]
        cells = [get(name) for name in group.names for get in getters]
        yield list(range(len(group.names))), self._series(cells, group)

    def _series(self, cells: Sequence[object], group: Group) -> pl.Series:
        kinds = set(map(type, cells))
        if kinds <= {str, NoneType}:
            return pl.Series(cells, dtype=pl.String)
        numbers = _floats(cells) if group.of_numbers and kinds <= {int, float, NoneType} else None
        return pl.Series(self._texts(group.members), dtype=pl.String) if numbers is None else pl.Series(numbers)

    def _texts(self, members: Sequence[int]) -> list[str | None]:
        """Values as text, column by column.

        Raises:
            DataError: When one is no value of a table.
        """
        columns = [self._columns[at] for at in members]
        return [_written(row.get(column.name), at, column) for column in columns for at, row in enumerate(self._rows)]


def _is_plain(row: Mapping[str, object]) -> bool:
    """Whether no value of a row needs a second look."""
    kinds = set(map(type, row.values()))
    if not kinds <= _PLAIN:
        return False
    if str not in kinds:
        return True
    try:
        "".join([value for value in row.values() if isinstance(value, str)]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _floats(cells: Sequence[object]) -> NDArray[np.float64] | None:
    """What the numbers' texts would be read as, not a number where there is none; None when texts are needed."""
    try:
        numbers = np.array(cells, np.float64)
    except OverflowError:
        return None
    return None if (np.abs(numbers) >= _LARGE).any() else numbers + 0.0  # no text is written of minus zero


def _written(value: object, row: int, column: FittedColumn) -> str | None:
    """A JSON value as a table has it."""
    name = column.name
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise DataError(f"row {row}, column {name!r}: {_shown(value)} is no text in UTF-8")
        return value
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = str(int(value)) if value.is_integer() and abs(value) < WHOLE else repr(value)
        commas = isinstance(column, NumericColumn | BinnedColumn) and column.decimal == ","
        return text.replace(".", ",") if commas else text
    if isinstance(value, int):
        return str(value) if abs(value) < 10**300 else "inf"
    raise DataError(
        f"row {row}, column {name!r}: {_shown(value)} is no value of a table: give text, a number, true, false or null"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
