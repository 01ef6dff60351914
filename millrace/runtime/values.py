"""What a value of a table is: a number, a date or a text; the same for records and for serving.

It depends on nothing but itself and what was learnt of its column:

- text is taken without the space around it; `MISSING` in any case is a missing value, and so are null and not-a-number;
- a number is as in `1.5`, `-2` or `1e3`, or `1,5` where the column has decimal commas; infinite ones are refused;
- a date is as in `2024-01-31`, with `T` or a space and `12:30`, `12:30:59` or `12:30:59.5` after it, and `Z` or
  `+02:00` after that (then it is brought to UTC); or as the column's format says; or of a date type;
- a category is the text; numbers are the same however they are written (1 and 1.0, 1.5 and 1.50, 1e-7 and 0.0000001),
  but for leading zeros and plus signs, which make other texts; `true` and `false` are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import DataError

__all__ = ["MISSING", "WHOLE", "as_dates", "as_numbers", "as_texts", "check_kind", "date_parts", "stacked"]

MISSING = ("", "?", "#n/a", "<na>", "n/a", "na", "nan", "none", "null")
"""Texts that stand for a missing value, in any case and with any space around."""

_ISO = (
    r"^(?<day>\d{4}-\d{2}-\d{2})(?:[T ](?<minute>\d{2}:\d{2})(?:(?<second>:\d{2})(?<part>\.\d{1,9})?)?"
    r"(?:Z|(?<sign>[+-])(?<hours>\d{2}):?(?<minutes>\d{2}))?)?$"
)
_NUMBER = r"^-?(?:0|[1-9]\d*)(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)$|^-0$"
"""Numbers that could be written otherwise; whole ones without an exponent could not, and may have any length."""
_TRUTHS = ("true", "false")
_WORD = f"(?i-u)^(?:{'|'.join(map(re.escape, (*MISSING, *_TRUTHS)))})$"
"""Texts that are not taken as they are written."""
_TAKEN = (pl.Boolean, pl.String, pl.Categorical, pl.Enum, pl.Null)
WHOLE = 2.0**63  # below it whole numbers are written as such
_DAY = 86_400_000_000  # microseconds


def stacked(columns: Sequence[pl.Series]) -> Iterator[tuple[list[int], pl.Series]]:
    """Columns of one type as one: polars takes about as long for a short column as for a thousand of them in one.

    Args:
        columns: Of any types and lengths.

    Returns:
        Of each type: which columns have it, and their values, one column after the other. Categories are made text.
    """
    kinds: dict[pl.DataType, list[int]] = {}
    for at, column in enumerate(columns):
        kinds.setdefault(column.dtype, []).append(at)
    for kind, places in kinds.items():
        some = [columns[at] for at in places]
        if isinstance(kind, pl.Categorical | pl.Enum | pl.Null):
            some = [one.cast(pl.String) for one in some]
        yield places, some[0] if len(some) == 1 else pl.concat(some, rechunk=True)


def check_kind(values: pl.Series) -> None:
    """See that a column's values can be taken at all.

    Raises:
        DataError: When they are lists, structures or bytes.
    """
    kind = values.dtype
    if kind.is_numeric() or kind.is_temporal() or isinstance(kind, _TAKEN):
        return
    raise DataError(
        f"column {values.name!r} holds {kind}, of which no feature can be made: text, numbers, dates and booleans "
        "can be taken"
    )


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
    whole = values.is_finite() & (values == values.round()) & (values.abs() < WHOLE)
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
    check_kind(values)
    texts = values.cast(pl.String).str.strip_chars()
    if not texts.str.contains(_WORD).any():
        return texts
    lower = texts.str.to_lowercase()
    texts = texts.set(lower.is_in(MISSING), None)
    return lower.zip_with(lower.is_in(_TRUTHS).fill_null(False), texts)


def as_numbers(values: pl.Series, decimal: str = ".") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values as numbers, NaN where they are missing or none, and which of them are none.

    Args:
        values: Text or typed.
        decimal: What text has before a fraction, `.` or `,`.

    Raises:
        DataError: As `as_texts`.
    """
    texts = None if values.dtype.is_numeric() else _stripped(values)
    given = values if texts is None else texts
    if texts is not None and decimal == ",":
        points = texts.str.contains(".", literal=True).fill_null(False)
        given = texts.set(points, None).str.replace(",", ".", literal=True)
    read = given.cast(pl.Float64, strict=False)
    numbers: NDArray[np.float64] = read.to_numpy()
    finite = np.isfinite(numbers)
    wrong = np.isinf(numbers)
    if texts is not None and not finite.all():
        wrong |= (texts.is_not_null() & read.is_null()).to_numpy()
    return np.where(finite, numbers, np.nan), wrong


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
