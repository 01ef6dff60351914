"""Features of rows, worked out value by value: what all other ways to make them must give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
from millrace.runtime.tabular import Flaw
from millrace.runtime.values import as_dates, as_numbers, as_texts, date_parts

__all__ = ["in_table", "one_by_one"]

CYCLES = {"month": (1, 12), "day": (1, 31), "weekday": (1, 7), "hour": (0, 24), "minute": (0, 60)}
TOO_LARGE = "is too large: beside the training values it is more than a 32-bit float can hold, 3.4e38"


def one_by_one(frame: pl.DataFrame, columns: Sequence[FittedColumn]) -> tuple[NDArray[np.float32], list[Flaw]]:
    """What `transform` gives, worked out value by value."""
    made = [np.zeros((frame.height, column.width), np.float32) for column in columns]
    flaws: list[Flaw] = []
    for part, column in zip(made, columns, strict=True):
        found = [(row, fill(part[row], frame[column.name][row : row + 1], column)) for row in range(frame.height)]
        some = sorted((problem == TOO_LARGE, row, problem) for row, problem in found if problem)
        for _, row, problem in some:
            shown = repr(frame[column.name][row])
            shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
            flaws.append(Flaw(row, column.name, f"{shown} {problem}"))
    return np.concatenate(made, axis=1), flaws


def fill(cells: NDArray[np.float32], value: pl.Series, column: FittedColumn) -> str | None:
    """Write the features of one value, and say what is wrong with it."""
    match column:
        case NumericColumn() | BinnedColumn():
            return fill_number(cells, value, column)
        case CategoryColumn():
            (text,) = as_texts(value)
            known = {one: place for place, one in enumerate(column.values)}
            cells[-1 if text is None else known.get(text, len(known))] = 1
        case HashedColumn():
            (text,) = as_texts(value)
            digest = hashlib.blake2b((text or "").encode(), digest_size=8).digest()
            cells[-1 if text is None else int.from_bytes(digest, "little") % column.buckets] = 1
        case DateColumn():
            return fill_date(cells, value, column)
    return None


def fill_number(cells: NDArray[np.float32], value: pl.Series, column: NumericColumn | BinnedColumn) -> str | None:
    (read,), (wrong,) = as_numbers(value, column.decimal)
    number = None if np.isnan(read) else read
    if isinstance(column, BinnedColumn):
        cells[-1 if number is None else sum(number >= edge for edge in column.edges)] = 1
    else:
        with np.errstate(over="ignore"):
            cells[0] = (np.float64(column.missing if number is None else number) - column.shift) / column.scale
        if column.indicator:
            cells[1] = number is None
        if not wrong and not np.isfinite(cells[0]):
            return TOO_LARGE
    needed = f"is no number: write it as 1{column.decimal}5, -2 or 1e3, and nothing, NA or null for a missing one"
    return needed if wrong else None


def fill_date(cells: NDArray[np.float32], value: pl.Series, column: DateColumn) -> str | None:
    dates, (wrong,) = as_dates(value, column.format)
    if dates[0] is None:
        cells[-1] = 1
    else:
        at = 0
        for name in column.parts:
            number = date_parts(dates, name)
            if name in CYCLES:
                first, length = CYCLES[name]
                angle = 2 * np.pi * (number - first) / length
                cells[at : at + 2] = np.sin(angle)[0], np.cos(angle)[0]
                at += 2
            else:
                cells[at] = (number[0] - column.shifts[name]) / column.scales[name]
                at += 1
    wanted = "2024-01-31 or 2024-01-31T12:30:59" if column.format is None else column.format
    needed = f"is no date: write it as {wanted}, and nothing, NA or null for a missing one"
    return needed if wrong else None


def in_table(value: object, column: FittedColumn) -> str | None:
    """A value of JSON as a table of text has it."""
    commas = isinstance(column, NumericColumn | BinnedColumn) and column.decimal == ","
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case int():
            return str(value) if abs(value) < 10**300 else "inf"
        case float():
            text = str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
            return text.replace(".", ",") if commas else text
    return str(value)
