"""From rows of tables to the features that a model sees; the same for records and for serving.

What a value is depends on nothing but itself and what was learnt of its column:

- text is taken without the space around it; `MISSING` in any case is a missing value, and so are null and not-a-number;
- a number is as in `1.5`, `-2` or `1e3`, or `1,5` where the column has decimal commas; infinite ones are refused;
- a date is as in `2024-01-31`, with `T` or a space and `12:30`, `12:30:59` or `12:30:59.5` after it, and `Z` or
  `+02:00` after that (then it is brought to UTC); or as the column's format says; or of a date type;
- a category is the text; numbers are the same however they are written (1 and 1.0, 1.5 and 1.50, 1e-7 and 0.0000001),
  but for leading zeros and plus signs, which make other texts; `true` and `false` are in lower case;
- a hashed value goes to the feature `blake2b(text, 8 bytes, little-endian) % buckets`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import tau
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import DataError, did_you_mean
from millrace.runtime.columns import (
    BinnedColumn,
    CategoryColumn,
    DateColumn,
    FittedColumn,
    NumericColumn,
)
from millrace.runtime.schemas import TabularRecords

__all__ = [
    "MISSING",
    "Flaw",
    "as_dates",
    "as_numbers",
    "as_texts",
    "date_parts",
    "features",
    "rows_to_frame",
    "transform",
]

MISSING = ("", "?", "#n/a", "<na>", "n/a", "na", "nan", "none", "null")
"""Texts that stand for a missing value, in any case and with any space around."""

_ISO = (
    r"^(?<day>\d{4}-\d{2}-\d{2})(?:[T ](?<minute>\d{2}:\d{2})(?:(?<second>:\d{2})(?<part>\.\d{1,9})?)?"
    r"(?:Z|(?<sign>[+-])(?<hours>\d{2}):?(?<minutes>\d{2}))?)?$"
)
_NUMBER = r"^-?(?:0|[1-9]\d*)(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)$|^-0$"
"""Numbers that could be written otherwise; whole ones without an exponent could not, and may have any length."""
_SHOWN = 60  # characters of a value in a message
_WHOLE = 2.0**63  # below it whole numbers are written as such
_CYCLES: Mapping[str, tuple[int, int]] = {
    "month": (1, 12), "day": (1, 31), "weekday": (1, 7), "hour": (0, 24), "minute": (0, 60)
}  # fmt: skip
_DAY = 86_400_000_000  # microseconds


class Flaw(NamedTuple):
    """A value that can't be taken."""

    row: int
    """From 0."""
    column: str
    problem: str
    """The value and what is allowed."""


def features(frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> NDArray[np.float32]:
    """The features of rows, [rows, width].

    Args:
        frame: With these columns, as text or typed; it may have others.
        columns: What becomes of each.

    Raises:
        DataError: When a column is missing, or a value can't be taken; it names row, column and value.
    """
    found, flaws = transform(frame, columns)
    if flaws:
        first = min(flaws)
        raise DataError(f"row {first.row}, column {first.column!r}: {first.problem}")
    return found


def transform(frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> tuple[NDArray[np.float32], list[Flaw]]:
    """As `features`, but all values that can't be taken are given; their features are of no use.

    Raises:
        DataError: When a column is missing, or nothing of it can be taken: it holds lists for one.
    """
    found = np.zeros((frame.height, sum(column.width for column in columns)), np.float32)
    flaws: list[Flaw] = []
    start = 0
    there = set(frame.columns)
    for column in columns:
        if column.name not in there:
            raise DataError(f"there is no column {column.name!r}: {did_you_mean(column.name, frame.columns)}")
        end = start + column.width
        values = frame[column.name]
        for wrong, problem in _fill(found[:, start:end], values, column):
            for row in np.flatnonzero(wrong).tolist():
                flaws.append(Flaw(row, column.name, f"{_shown(values[row])} {problem}"))
        start = end
    return found, flaws


def rows_to_frame(rows: Sequence[Mapping[str, object]], schema: TabularRecords) -> pl.DataFrame:
    """Rows of JSON values as a table with all columns of a schema; keys that are left out are missing values.

    Columns that the schema ignores may have any value.

    Raises:
        DataError: When a key is no column of the training tables, or a value is a list or an object.
    """
    names = [column.name for column in schema.columns]
    known = {*names, *schema.ignored}
    for number, row in enumerate(rows):
        for name in row:
            if name not in known:
                raise DataError(f"row {number}: unknown column {name!r}: {did_you_mean(str(name), names)}")
    columns = {
        column.name: [_written(row.get(column.name), number, column) for number, row in enumerate(rows)]
        for column in schema.columns
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def as_texts(values: pl.Series) -> pl.Series:
    """Values as text, null where they are missing; what categories are made of.

    Raises:
        DataError: When they are lists, structures or bytes.
    """
    texts = _stripped(values)
    if values.dtype.is_float() or values.dtype.is_integer():
        return texts
    several = texts.str.contains(_NUMBER).fill_null(False)
    if not several.any():
        return texts
    numbers = texts.set(~several, None).cast(pl.Float64, strict=False)
    return _numbers_written(numbers).zip_with(numbers.is_finite().fill_null(False), texts)


def _numbers_written(values: pl.Series) -> pl.Series:
    """Floats as text, each in one way; null where they are not a number."""
    whole = values.is_finite() & (values == values.round()) & (values.abs() < _WHOLE)
    numbers = values.fill_nan(None)
    digits = numbers.set(~whole, None).cast(pl.Int64).cast(pl.String)
    return digits.zip_with(whole.fill_null(False), numbers.cast(pl.String))


def _stripped(values: pl.Series) -> pl.Series:
    """Values as text as it is written, null where they are missing."""
    kind = values.dtype
    if kind.is_float():
        return _numbers_written(values)
    if kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean:
        return values.cast(pl.String)
    if not isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Null):
        raise DataError(
            f"column {values.name!r} holds {kind}, of which no feature can be made: text, numbers, dates and booleans "
            "can be taken"
        )
    texts = values.cast(pl.String).str.strip_chars()
    lower = texts.str.to_lowercase()
    texts = texts.set(lower.is_in(MISSING), None)
    return lower.zip_with(lower.is_in(("true", "false")).fill_null(False), texts)


def as_numbers(values: pl.Series, decimal: str = ".") -> tuple[pl.Series, NDArray[np.bool_]]:
    """Values as Float64, null where they are missing or no number, and which of them are no number.

    Args:
        values: Text or typed.
        decimal: What text has before a fraction, `.` or `,`.

    Raises:
        DataError: As `as_texts`.
    """
    if values.dtype.is_numeric():
        numbers = values.cast(pl.Float64)
        given = numbers.is_not_null()
    else:
        texts = _stripped(values)
        given = texts.is_not_null()
        if decimal == ",":
            points = texts.str.contains(".", literal=True).fill_null(False)
            texts = texts.set(points, None).str.replace(",", ".", literal=True)
        numbers = texts.cast(pl.Float64, strict=False)
    given &= ~numbers.is_nan().fill_null(False)
    numbers = numbers.set(~numbers.is_finite().fill_null(False), None)
    return numbers, (given & numbers.is_null()).to_numpy()


def as_dates(values: pl.Series, form: str | None) -> tuple[pl.Series, NDArray[np.bool_]]:
    """Values as Datetime in UTC, null where they are missing or no date, and which of them are no date.

    Raises:
        DataError: As `as_texts`.
    """
    kind = values.dtype
    if isinstance(kind, pl.Datetime | pl.Date):
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        dates = values.cast(pl.Datetime("us"))
        return dates, np.zeros(len(values), np.bool_)
    texts = _stripped(values)
    if form is None:
        dates = _iso(texts)
    else:
        dates = texts.str.strptime(pl.Datetime("us"), form, strict=False)
        if isinstance(dates.dtype, pl.Datetime) and dates.dtype.time_zone is not None:
            dates = dates.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return dates, (texts.is_not_null() & dates.is_null()).to_numpy()


def date_parts(dates: pl.Series, part: str) -> NDArray[np.float64]:
    """A part of each date as a number, not a number where it is null: days since 1970 with their fraction, or as on a
    clock or in a calendar (weekdays from 1, Monday)."""
    if part == "days":
        return dates.dt.timestamp("us").cast(pl.Float64).to_numpy() / _DAY
    number: pl.Series = getattr(dates.dt, part)()
    return number.cast(pl.Float64).fill_null(float("nan")).to_numpy()


_Wrong = list[tuple[NDArray[np.bool_], str]]
"""Which values can't be taken, and why."""


def _fill(part: NDArray[np.float32], values: pl.Series, column: FittedColumn) -> _Wrong:
    """Write the features of a column into zeros, [rows, width]."""
    if isinstance(column, NumericColumn):
        return _fill_number(part, values, column)
    if isinstance(column, BinnedColumn):
        numbers, wrong = as_numbers(values, column.decimal)
        places = np.searchsorted(np.array(column.edges), numbers.fill_null(0.0).to_numpy(), side="right")
        _mark(part, places, numbers.is_null())
        return [(wrong, _no_number(column))]
    if isinstance(column, DateColumn):
        return _fill_date(part, values, column)
    texts = as_texts(values)
    if isinstance(column, CategoryColumn):
        known = {value: place for place, value in enumerate(column.values)}
        places = _places(texts, lambda text: known.get(text, len(known)))
    else:
        places = _places(texts, lambda text: _hash(text) % column.buckets)
    _mark(part, places, texts.is_null())
    return []


_TOO_LARGE = "is too large: beside the training values it is more than a 32-bit float can hold, 3.4e38"
_NO_DATE = "is no date"


def _no_number(column: NumericColumn | BinnedColumn) -> str:
    return f"is no number: write it as 1{column.decimal}5, -2 or 1e3, and nothing, NA or null for a missing one"


def _fill_number(part: NDArray[np.float32], values: pl.Series, column: NumericColumn) -> _Wrong:
    numbers, wrong = as_numbers(values, column.decimal)
    with np.errstate(over="ignore"):  # which is found below
        part[:, 0] = (numbers.fill_null(column.missing).to_numpy() - column.shift) / column.scale
    if column.indicator:
        part[:, 1] = numbers.is_null().to_numpy()
    return [(wrong, _no_number(column)), (~np.isfinite(part[:, 0]) & ~wrong, _TOO_LARGE)]


def _fill_date(part: NDArray[np.float32], values: pl.Series, column: DateColumn) -> _Wrong:
    dates, wrong = as_dates(values, column.format)
    missing = dates.is_null().to_numpy()
    at = 0
    for name in column.parts:
        numbers = date_parts(dates, name)
        if name in _CYCLES:
            first, length = _CYCLES[name]
            angles = tau * (numbers - first) / length
            part[:, at], part[:, at + 1] = np.sin(angles), np.cos(angles)
            at += 2
        else:
            part[:, at] = (numbers - column.shifts[name]) / column.scales[name]
            at += 1
    part[missing] = 0
    part[:, at] = missing
    wanted = "2024-01-31 or 2024-01-31T12:30:59" if column.format is None else column.format
    return [(wrong, f"{_NO_DATE}: write it as {wanted}, and nothing, NA or null for a missing one")]


def _mark(part: NDArray[np.float32], places: NDArray[np.intp], missing: pl.Series) -> None:
    """Write a 1 at each row's place, in the last one where the value is missing."""
    places = np.where(missing.to_numpy(), part.shape[1] - 1, places)
    part[np.arange(len(places)), places] = 1


def _places(texts: pl.Series, place: Callable[[str], int]) -> NDArray[np.intp]:
    """The place of each text, asked once for equal ones; 0 where it is missing."""
    different = texts.drop_nulls().unique()
    if not len(different):
        return np.zeros(len(texts), np.intp)
    numbers = pl.Series([place(text) for text in different], dtype=pl.Int64)
    return texts.replace_strict(different, numbers, default=0, return_dtype=pl.Int64).fill_null(0).to_numpy()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _iso(texts: pl.Series) -> pl.Series:
    """Without guessing: what one value is must not depend on others."""
    found = texts.to_frame("text").select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    moment = pl.format(
        "{}T{}{}{}",
        "day",
        pl.col("minute").fill_null("00:00"),
        pl.col("second").fill_null(":00"),
        pl.col("part").fill_null(""),
    ).str.strptime(pl.Datetime("us"), "%Y-%m-%dT%H:%M:%S%.f", strict=False)
    hours, minutes = (pl.col(name).cast(pl.Int64, strict=False) for name in ("hours", "minutes"))
    ahead = pl.duration(minutes=(hours * 60 + minutes) * pl.when(pl.col("sign") == "-").then(-1).otherwise(1))
    return found.select(dates=moment - pl.when(pl.col("sign").is_null()).then(pl.duration(minutes=0)).otherwise(ahead))[
        "dates"
    ]


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
        text = str(int(value)) if value.is_integer() and abs(value) < _WHOLE else repr(value)
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
