"""Learn what becomes of a column from its values in the training rows.

All figures are exact and do not depend on the order of rows: sums are rounded once. One column at a time is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
from millrace.runtime.tabular import as_dates, as_numbers, as_texts, date_parts

__all__ = ["Fitted", "fit_column"]

_ALMOST = 0.9
_NEARLY = 0.99
"""Part of the values that must be numbers, or dates, for the others to be told as mistakes."""
_FEW = 10
_ROUNDING = 4 * np.finfo(np.float64).eps
"""Of the largest number: a deviation below it is the rounding of the mean."""
_SHOWN = 5
_LOCAL_DATE = r"^\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d{2})(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?$"

_WHAT = {"numeric": "number", "bins": "number", "date": "date"}

Parts = Callable[[], Iterator[pl.Series]]


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


def fit_column(name: str, parts: Parts, option: Column | None, data: TabularData) -> Fitted:
    """What becomes of a column.

    Args:
        name: Of the column.
        parts: Gives its values in the training rows, each time it is called.
        option: What was asked for; None takes it by its values.
        data: Options of columns that are not named.

    Raises:
        DataError: When it can't be what was asked for.
    """
    texts = pl.concat([as_texts(part) for part in parts()])
    rows, missing = len(texts), texts.null_count()
    given = texts.drop_nulls()
    distinct = given.n_unique()
    share = missing / rows if rows else 0.0
    if option is None and distinct < 2:
        why = "left out: one value" if distinct else "left out: no values"
        return Fitted(name, None, share, distinct, why)
    nearly = remedy = ""
    if option is None:
        option, nearly, remedy = _automatic(parts, data, given)
        if isinstance(option, Category) and distinct > max(_FEW, _ALMOST * len(given)):
            why = "left out: nearly every row has its own value"
            return Fitted(name, None, share, distinct, why, doubtful=True, nearly=nearly, remedy=remedy)
    if isinstance(option, Category | Hashed):
        column, learnt = _fit_texts(name, given, option)
        return Fitted(name, column, share, distinct, learnt, nearly=nearly, remedy=remedy)
    found, wrong = _values(parts, option, data.decimal)
    if not len(found):
        raise _none_found(name, parts, option, data, given)
    column, learnt = _fit_column(name, found, option, missing > 0)
    if isinstance(column, NumericColumn | BinnedColumn):
        column = column.model_copy(update={"decimal": data.decimal})
    return Fitted(name, column, share, distinct, learnt, unusable=wrong)


def _none_found(
    name: str, parts: Parts, option: Numeric | Bins | Date, data: TabularData, given: pl.Series
) -> DataError:
    """No value is what the column shall hold."""
    what = _WHAT[option.kind]
    mend = "take it as category, or leave it out with preprocess.data.exclude"
    if isinstance(option, Date) and option.format is not None:
        what += f" in the format {option.format}"
        mend = f"give its format as in strftime, or none, which reads dates as 2024-01-31; or {mend}"
    elif isinstance(option, Date):
        mend = f'give its format as in strftime, "%d.%m.%Y" for one; or {mend}'
    elif len(given) and len(_values(parts, option, _other(data.decimal))[0]):
        mend = _remedy_of_decimals(data.decimal)
    some = f"; {given.min()!r:.60} for one" if len(given) else ""
    return DataError(f"column {name!r} shall be {option.kind}, and no training row has a {what} in it{some}: {mend}")


def _automatic(parts: Parts, data: TabularData, given: pl.Series) -> tuple[Column, str, str]:
    """By the values, or the type where the table has types; what nearly all values are, if they are not all of what can
    be taken; and how they are taken as that."""
    kinds = {part.dtype for part in parts()}
    nearly = remedy = ""
    if pl.Boolean in kinds or not len(given):
        return data.category, "", ""
    most = int((1 - _NEARLY) * len(given))
    for option in (data.numeric, data.date):
        others, first = _unlike(parts, option, most, data.decimal)
        if not others:
            return option, "", ""
        if first is not None:
            nearly = f"{_WHAT[option.kind]}s but for {others} of {len(given)} values, {first!r:.60} for one"
            remedy = "which rejects the others, name it in preprocess.data.columns"
    if not nearly:
        nearly, remedy = _otherwise_written(parts, data, given, most)
    return data.category, nearly, remedy


def _otherwise_written(parts: Parts, data: TabularData, given: pl.Series, most: int) -> tuple[str, str]:
    """Numbers with the other decimal sign, or dates as they are written in many countries."""
    others, first = _unlike(parts, data.numeric, most, _other(data.decimal))
    if not others or first is not None:
        sign = {",": "commas", ".": "points"}[_other(data.decimal)]
        fractions = given.filter(given.str.contains(_other(data.decimal), literal=True))
        return f"numbers with decimal {sign}, {fractions.min()!r:.60} for one", _remedy_of_decimals(data.decimal)
    dates = given.filter(given.str.contains(_LOCAL_DATE))
    if len(dates) >= len(given) - most:
        return (
            f"what looks like dates, {dates.min()!r:.60} for one",
            'name it in preprocess.data.columns with its format, {kind: date, format: "%d.%m.%Y"} for one',
        )
    return "", ""


def _other(decimal: str) -> str:
    return "," if decimal == "." else "."


def _remedy_of_decimals(decimal: str) -> str:
    return f'set preprocess.data.decimal="{_other(decimal)}", which is for all columns'


def _unlike(parts: Parts, option: Numeric | Date, most: int, decimal: str) -> tuple[int, str | None]:
    """How many values are no numbers or dates, and the first of them by its text; None when they are too many."""
    others = 0
    texts: list[str] = []
    for part in parts():
        wrong = _read(part, option, decimal)[1]
        others += int(wrong.sum())
        if others > most:
            return others, None
        texts.extend(as_texts(part.filter(pl.Series(wrong))).to_list())
    return others, min(texts, default=None)


def _read(part: pl.Series, option: Numeric | Bins | Date, decimal: str) -> tuple[pl.Series, NDArray[np.bool_]]:
    return as_dates(part, option.format) if isinstance(option, Date) else as_numbers(part, decimal)


def _values(parts: Parts, option: Numeric | Bins | Date, decimal: str) -> tuple[pl.Series, int]:
    """Numbers or dates without missing ones, rising, and how many values are neither."""
    found, wrong = zip(*(_read(part, option, decimal) for part in parts()), strict=True)
    return pl.concat(found).drop_nulls().sort(), sum(int(one.sum()) for one in wrong)


def _fit_column(name: str, found: pl.Series, option: Numeric | Bins | Date, lacks: bool) -> tuple[FittedColumn, str]:
    if isinstance(option, Date):
        return _fit_date(name, found, option)
    numbers = found.to_numpy()
    return _fit_bins(name, numbers, option) if isinstance(option, Bins) else _fit_number(name, numbers, option, lacks)


def _fit_number(name: str, numbers: NDArray[np.float64], option: Numeric, lacks: bool) -> tuple[FittedColumn, str]:
    low, high = float(numbers[0]), float(numbers[-1])
    middle = (float(numbers[(len(numbers) - 1) // 2]) + float(numbers[len(numbers) // 2])) / 2
    mean, deviation = _moments(name, numbers)
    if option.scaling == "standard":
        shift, scale = mean, deviation or 1.0
    else:
        shift, scale = (low, _of_weight(high - low, numbers) or 1.0) if option.scaling == "min_max" else (0.0, 1.0)
    stands = {"mean": mean, "median": middle, "zero": 0.0}[option.missing]
    _check_finite(name, shift, scale, stands, (high - shift) / scale)
    column = NumericColumn(name=name, shift=shift, scale=scale, missing=stands, indicator=option.indicator and lacks)
    return column, f"{low:g} to {high:g}, median {middle:g}, mean {mean:g}, deviation {deviation:g}"


def _fit_bins(name: str, numbers: NDArray[np.float64], option: Bins) -> tuple[FittedColumn, str]:
    if option.edges is not None:
        edges = option.edges
    else:
        ends = np.quantile(numbers, np.arange(1, option.count) / option.count)
        rising = sorted({float(end) for end in ends if end > numbers[0]})
        edges = tuple(rising) or (float(numbers[0]),)
        _check_finite(name, *edges)
    return BinnedColumn(
        name=name, edges=edges
    ), f"{len(edges) + 1} ranges, ends at {_listed([f'{e:g}' for e in edges])}"


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
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((numbers - mean) ** 2) / len(numbers))
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
