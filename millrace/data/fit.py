"""Learn what becomes of a column from its values in the training rows.

All figures are exact and do not depend on the order of rows: sums are rounded once. Columns are looked at together: for
short ones, what is done for each of them in turn costs more than reading its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.data.column_values import ColumnValues, Reading, read_at_once, read_texts, rule_out
from millrace.data.options.tables import Bins, Category, Column, Date, Hashed, Numeric, TabularData
from millrace.errors import DataError
from millrace.runtime.columns import (
    BinnedColumn,
    CategoryColumn,
    DateColumn,
    FittedColumn,
    HashedColumn,
    NumericColumn,
)
from millrace.runtime.values import as_texts, date_parts

__all__ = ["Fitted", "fit_columns"]

_ALMOST = 0.9
_FEW = 10
_ROUNDING = 4 * np.finfo(np.float64).eps
"""Of the largest number: a deviation below it is the rounding of the mean."""
_SHOWN = 5
_LOCAL_DATE = r"^\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d{2})(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?$"

_WHAT = {"numeric": "number", "bins": "number", "date": "date"}


class Fitted(NamedTuple):
    """A column and what was seen of it."""

    name: str
    column: FittedColumn | None
    """None when it is left out."""
    missing: float
    """Share of training rows without a value."""
    distinct: int
    """Number of different values."""
    learnt: str
    """In words; why it is left out when it is."""
    unusable: int = 0
    """Training rows with a value that can't be taken."""
    doubtful: bool = False
    """Whether it is left out although it holds something."""
    nearly: str = ""
    """What nearly all of its values are, so that it may be meant as such."""
    remedy: str = ""
    """How it is taken as such."""


def fit_columns(columns: Mapping[str, Sequence[pl.Series]], data: TabularData) -> list[Fitted]:
    """What becomes of columns.

    Args:
        columns: The values of each in the training rows, in parts; one part at least.
        data: What was asked for of columns by name; the others are taken by their values.

    Raises:
        DataError: When one can't be what was asked for.
    """
    found = read_texts(columns)
    _look_at_once(found, data)
    return [_fit(one, data.columns.get(one.name), data) for one in found]


def _look_at_once(columns: Sequence[ColumnValues], data: TabularData) -> None:
    """Read those columns as numbers that may be some, and tell of the others what they are not."""
    number, commas = Reading("number", data.decimal), Reading("number", _other(data.decimal))
    unknown = [one for one in columns if one.name not in data.columns]
    others = rule_out(unknown, number)
    for reading in (Reading("date", data.date.format), commas):
        rule_out(others, reading)
    asked = [one for one in columns if isinstance(data.columns.get(one.name), Numeric | Bins)]
    read_at_once([*asked, *(one for one in unknown if number not in one.ruled_out)], number)


def _fit(values: ColumnValues, option: Column | None, data: TabularData) -> Fitted:
    name, given = values.name, values.given
    distinct = given.n_unique()
    share = values.missing / len(values.texts) if len(values.texts) else 0.0
    if option is None and distinct < 2:
        why = "left out: one value" if distinct else "left out: no values"
        return Fitted(name, None, share, distinct, why)
    nearly = remedy = ""
    if option is None:
        option, nearly, remedy = _automatic(values, data)
        if isinstance(option, Category) and distinct > max(_FEW, _ALMOST * len(given)):
            why = "left out: nearly every row has its own value"
            return Fitted(name, None, share, distinct, why, doubtful=True, nearly=nearly, remedy=remedy)
    if isinstance(option, Category | Hashed):
        column, learnt = _fit_texts(name, given, option)
        return Fitted(name, column, share, distinct, learnt, nearly=nearly, remedy=remedy)
    reading = _reading(option, data.decimal)
    found = _found(values, reading)
    if not len(found):
        raise _none_found(values, option, data)
    column, learnt = _fit_column(name, found, option, data.decimal, values.missing > 0)
    wrong = sum(int(wrong.sum()) for _, wrong in values.read(reading))
    return Fitted(name, column, share, distinct, learnt, unusable=wrong)


def _reading(option: Numeric | Bins | Date, decimal: str) -> Reading:
    return Reading("date", option.format) if isinstance(option, Date) else Reading("number", decimal)


def _none_found(values: ColumnValues, option: Numeric | Bins | Date, data: TabularData) -> DataError:
    """No value is what the column shall hold."""
    name, given = values.name, values.given
    what = _WHAT[option.kind]
    mend = "take it as category, or leave it out with preprocess.data.exclude"
    if isinstance(option, Date) and option.format is not None:
        what += f" in the format {option.format}"
        mend = f"give its format as in strftime, or none, which reads dates as 2024-01-31; or {mend}"
    elif isinstance(option, Date):
        mend = f'give its format as in strftime, "%d.%m.%Y" for one; or {mend}'
    elif len(given) and len(_found(values, _reading(option, _other(data.decimal)))):
        mend = _remedy_of_decimals(data.decimal)
    some = f"; {given.min()!r:.60} for one" if len(given) else ""
    return DataError(f"column {name!r} shall be {option.kind}, and no training row has a {what} in it{some}: {mend}")


def _automatic(values: ColumnValues, data: TabularData) -> tuple[Column, str, str]:
    """By the values, or the type where the table has types; what nearly all values are, if they are not all of what can
    be taken; and how they are taken as that."""
    nearly = remedy = ""
    if any(part.dtype == pl.Boolean for part in values.parts) or not len(values.given):
        return data.category, "", ""
    for option in (data.numeric, data.date):
        others, first = _unlike(values, _reading(option, data.decimal))
        if not others:
            return option, "", ""
        if first is not None:
            nearly = f"{_WHAT[option.kind]}s but for {others} of {len(values.given)} values, {first!r:.60} for one"
            remedy = "which rejects the others, name it in preprocess.data.columns"
    if not nearly:
        nearly, remedy = _otherwise_written(values, data)
    return data.category, nearly, remedy


def _otherwise_written(values: ColumnValues, data: TabularData) -> tuple[str, str]:
    """Numbers with the other decimal sign, or dates as they are written in many countries."""
    given = values.given
    others, first = _unlike(values, _reading(data.numeric, _other(data.decimal)))
    if not others or first is not None:
        sign = {",": "commas", ".": "points"}[_other(data.decimal)]
        fractions = given.filter(given.str.contains(_other(data.decimal), literal=True))
        return f"numbers with decimal {sign}, {fractions.min()!r:.60} for one", _remedy_of_decimals(data.decimal)
    dates = given.filter(given.str.contains(_LOCAL_DATE))
    if len(dates) >= len(given) - values.tolerated:
        return (
            f"what looks like dates, {dates.min()!r:.60} for one",
            'name it in preprocess.data.columns with its format, {kind: date, format: "%d.%m.%Y"} for one',
        )
    return "", ""


def _other(decimal: str) -> str:
    return "," if decimal == "." else "."


def _remedy_of_decimals(decimal: str) -> str:
    return f'set preprocess.data.decimal="{_other(decimal)}", which is for all columns'


def _unlike(values: ColumnValues, reading: Reading) -> tuple[int, str | None]:
    """How many values are no numbers or dates, and the first of them by its text; None when they are too many."""
    if reading in values.ruled_out:
        return len(values.given), None
    others = 0
    texts: list[str] = []
    for part, (_, wrong) in zip(values.parts, values.read(reading), strict=True):
        others += int(wrong.sum())
        if others > values.tolerated:
            return others, None
        if wrong.any():
            texts.extend(as_texts(part.filter(pl.Series(wrong))).to_list())
    return others, min(texts, default=None)


def _found(values: ColumnValues, reading: Reading) -> NDArray[Any]:
    """Numbers or dates without missing ones, rising."""
    found = np.concatenate([found for found, _ in values.read(reading)])
    return np.sort(found[~np.isnan(found)])


def _fit_column(
    name: str, found: NDArray[Any], option: Numeric | Bins | Date, decimal: Literal[".", ","], lacks: bool
) -> tuple[FittedColumn, str]:
    if isinstance(option, Date):
        return _fit_date(name, pl.Series(found), option)
    if isinstance(option, Bins):
        return _fit_bins(name, found, option, decimal)
    return _fit_number(name, found, option, decimal, lacks)


def _fit_number(
    name: str, numbers: NDArray[np.float64], option: Numeric, decimal: Literal[".", ","], lacks: bool
) -> tuple[FittedColumn, str]:
    low, high = float(numbers[0]), float(numbers[-1])
    middle = (float(numbers[(len(numbers) - 1) // 2]) + float(numbers[len(numbers) // 2])) / 2
    mean, deviation = _moments(name, numbers)
    if option.scaling == "standard":
        shift, scale = mean, deviation or 1.0
    else:
        shift, scale = (low, _of_weight(high - low, numbers) or 1.0) if option.scaling == "min_max" else (0.0, 1.0)
    stands = {"mean": mean, "median": middle, "zero": 0.0}[option.missing]
    _check_finite(name, shift, scale, stands, (high - shift) / scale)
    marked = option.indicator and lacks
    column = NumericColumn(name=name, shift=shift, scale=scale, missing=stands, indicator=marked, decimal=decimal)
    return column, f"{low:g} to {high:g}, median {middle:g}, mean {mean:g}, deviation {deviation:g}"


def _fit_bins(
    name: str, numbers: NDArray[np.float64], option: Bins, decimal: Literal[".", ","]
) -> tuple[FittedColumn, str]:
    if option.edges is not None:
        edges = option.edges
    else:
        ends = np.quantile(numbers, np.arange(1, option.count) / option.count)
        rising = sorted({float(end) for end in ends if end > numbers[0]})
        edges = tuple(rising) or (float(numbers[0]),)
        _check_finite(name, *edges)
    column = BinnedColumn(name=name, edges=edges, decimal=decimal)
    return column, f"{len(edges) + 1} ranges, ends at {_listed([f'{e:g}' for e in edges])}"


def _fit_texts(name: str, given: pl.Series, option: Category | Hashed) -> tuple[FittedColumn, str]:
    if isinstance(option, Hashed):
        return HashedColumn(name=name, buckets=option.buckets), f"hashed to {option.buckets}"
    counts = given.rename("value").value_counts(name="count").sort("count", "value", descending=[True, False])
    kept = counts.filter(pl.col("count") >= option.minimum).head(option.most)
    rest = counts.height - kept.height
    others = f"; {rest} rarer ones share a feature" if rest else ""
    shown = [f"{value[:30]!r} ({count})" for value, count in kept.head(_SHOWN).iter_rows()]
    more = f" and {kept.height - _SHOWN} more" if kept.height > _SHOWN else ""
    return CategoryColumn(name=name, values=tuple(kept["value"])), f"{', '.join(shown)}{more}{others}"


def _fit_date(name: str, dates: pl.Series, option: Date) -> tuple[FittedColumn, str]:
    shifts: dict[str, float] = {}
    scales: dict[str, float] = {}
    for part in option.parts:
        if part in ("days", "year"):
            mean, deviation = _moments(name, date_parts(dates, part))
            shifts[part], scales[part] = mean, deviation or 1.0
    column = DateColumn(name=name, format=option.format, parts=option.parts, shifts=shifts, scales=scales)
    return column, f"{dates.dt.to_string('%Y-%m-%d')[0]} to {dates.dt.to_string('%Y-%m-%d')[-1]}"


def _moments(name: str, numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and deviation; the sums are exact, so that the order of rows does not matter."""
    try:
        mean = math.fsum(numbers.tolist()) / len(numbers)
        deviation = math.sqrt(math.fsum(((numbers - mean) ** 2).tolist()) / len(numbers))
    except OverflowError:
        mean = deviation = math.inf
    _check_finite(name, mean, deviation)
    return mean, _of_weight(deviation, numbers)


def _of_weight(spread: float, numbers: NDArray[np.float64]) -> float:
    """A spread of numbers, 0 where there is none but that of rounding."""
    return spread if spread > _ROUNDING * float(np.abs(numbers).max()) else 0.0


def _check_finite(name: str, *figures: float) -> None:
    if not all(math.isfinite(figure) for figure in figures):
        raise DataError(
            f"column {name!r} has numbers too large to be scaled: take it as bins, or leave it out with "
            "preprocess.data.exclude"
        )


def _listed(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
