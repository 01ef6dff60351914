"""Rows that have the features of records, as far as features tell: to ask an endpoint with."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from itertools import pairwise

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
from millrace.runtime.tabular import features

__all__ = ["Row", "Value", "rows_of"]

Value = float | str | None
Row = dict[str, Value]
"""Values by column; None is missing."""

_TRIED = 4000  # values at a time that are looked through for those of a bucket
_MOST_TRIED = 50  # times as many values as buckets


def rows_of(values: NDArray[np.float32], columns: Sequence[FittedColumn]) -> list[Row]:
    """A row for each vector, with nearly the same features.

    What features do not tell is made up: a number inside of a range, a text of the same bucket, the parts of a date
    that are no features.

    Args:
        values: [N, features].
        columns: As they were fitted.
    """
    made: dict[str, list[Value]] = {}
    place = 0
    for column in columns:
        made[column.name] = _values(values[:, place : place + column.width].astype(np.float64), column)
        place += column.width
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


def _values(part: NDArray[np.float64], column: FittedColumn) -> list[Value]:
    match column:
        case NumericColumn():
            return _as_text(_numbers(part, column), column)
        case BinnedColumn():
            return _as_text(_chosen(part, [*_inside(column.edges), None]), column)
        case CategoryColumn():
            return _chosen(part, [*column.values, _other(column.values), None])
        case HashedColumn():
            return _of_buckets(part, column)
        case DateColumn():
            return _dates(part, column)


def _numbers(part: NDArray[np.float64], column: NumericColumn) -> list[Value]:
    numbers = part[:, 0] * column.scale + column.shift
    missing = part[:, 1] > 0.5 if column.indicator else np.zeros(len(part), bool)
    return [None if gone else float(f"{number:.7g}") for number, gone in zip(numbers, missing, strict=True)]


def _as_text(numbers: list[Value], column: NumericColumn | BinnedColumn) -> list[Value]:
    """Numbers with decimal commas as text, which all protocols take; others as they are."""
    if column.decimal == ".":
        return numbers
    return [None if number is None else str(number).replace(".", ",") for number in numbers]


def _chosen(part: NDArray[np.float64], values: Sequence[Value]) -> list[Value]:
    return [values[index] for index in part.argmax(axis=1)]


def _inside(edges: Sequence[float]) -> list[float]:
    """A number of each range."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return [edges[0] - 1, *middles, edges[-1] + 1]


def _other(values: Sequence[str]) -> str:
    text = "other"
    while text in values:
        text += "_"
    return text


def _of_buckets(part: NDArray[np.float64], column: HashedColumn) -> list[Value]:
    wanted = part.argmax(axis=1)
    found: dict[int, Value] = {column.buckets: None}
    for start in range(0, _MOST_TRIED * column.buckets, _TRIED):
        if found.keys() >= {*wanted.tolist()}:
            break
        texts = [str(number) for number in range(start, start + _TRIED)]
        buckets = features(pl.DataFrame({column.name: texts}), [column]).argmax(axis=1)
        for text, bucket in zip(texts, buckets.tolist(), strict=True):
            found.setdefault(bucket, text)
    return [found.get(bucket) for bucket in wanted.tolist()]


def _dates(part: NDArray[np.float64], column: DateColumn) -> list[Value]:
    there = part[:, -1] < 0.5
    written = iter(_written(_moments(part[there], column), column))
    return [next(written) if one else None for one in there]


_TIMES = ("hour", "minute")
_MIDNIGHT = datetime.datetime(2000, 1, 1)
_MINUTES = [_MIDNIGHT + datetime.timedelta(minutes=minute) for minute in range(24 * 60)]
_EPOCH = datetime.datetime(1970, 1, 1)


def _moments(part: NDArray[np.float64], column: DateColumn) -> list[datetime.datetime]:
    if "days" in column.parts:  # with their fraction, which tells the time as well
        days = _number(part, column, "days").tolist()
        return [_EPOCH + datetime.timedelta(minutes=round(day * 24 * 60)) for day in days]
    in_year = [name for name in column.parts if name not in _TIMES]
    in_day = [name for name in column.parts if name in _TIMES]
    years: Iterable[int] = range(2000, 2028)  # in which every day of the year is once on each weekday
    if "year" in column.parts:
        years = sorted({min(max(round(year), 1), datetime.MAXYEAR - 1) for year in _number(part, column, "year")})
    dates = _nearest(part, column, in_year, _of_years(years))
    times = _nearest(part, column, in_day, _MINUTES)
    return [datetime.datetime.combine(date.date(), time.time()) for date, time in zip(dates, times, strict=True)]


def _number(part: NDArray[np.float64], column: DateColumn, name: str) -> NDArray[np.float64]:
    return part[:, _slots(column)[name][0]] * column.scales[name] + column.shifts[name]


def _slots(column: DateColumn) -> dict[str, range]:
    """Which features each part has."""
    slots: dict[str, range] = {}
    place = 0
    for name in column.parts:
        size = 1 if name in ("days", "year") else 2
        slots[name] = range(place, place + size)
        place += size
    return slots


def _of_years(years: Iterable[int]) -> list[datetime.datetime]:
    starts = [(datetime.datetime(year, 1, 1), datetime.datetime(year + 1, 1, 1)) for year in years]
    return [start + datetime.timedelta(days=day) for start, end in starts for day in range((end - start).days)]


def _nearest(
    part: NDArray[np.float64], column: DateColumn, names: Sequence[str], moments: Sequence[datetime.datetime]
) -> list[datetime.datetime]:
    """For each row the moment of which these parts are nearly the same."""
    if not names or not len(part):
        return [moments[0]] * len(part)
    slots = _slots(column)
    chosen = [place for name in names for place in slots[name]]
    made = features(pl.DataFrame({column.name: _written(moments, column)}), [column])[:, chosen].astype(np.float64)
    return [moments[int(np.square(made - row).sum(axis=1).argmin())] for row in part[:, chosen]]


def _written(moments: Sequence[datetime.datetime], column: DateColumn) -> list[str]:
    """By what reads the format: Python's own writes no zone of a moment without one, and years below 1000 short."""
    if column.format is not None:
        in_utc = pl.Series(moments, dtype=pl.Datetime("us", "UTC"))
        return in_utc.dt.to_string(column.format).to_list()
    return [
        moment.isoformat() if moment.time() != datetime.time.min else moment.date().isoformat() for moment in moments
    ]
