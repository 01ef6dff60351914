"""Columns of tables after the training rows were looked at: pydantic data, saved with records and models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from millrace.specs import Frozen

__all__ = [
    "BinnedColumn",
    "CategoryColumn",
    "DateColumn",
    "FittedColumn",
    "HashedColumn",
    "NumericColumn",
]


class NumericColumn(Frozen):
    """`(value - shift) / scale`; then 1 where the value was missing, if `indicator`."""

    kind: Literal["numeric"] = "numeric"
    name: str
    shift: float
    scale: float = Field(gt=0)
    missing: float
    """Stands for a missing value, before scaling."""
    indicator: bool
    decimal: Literal[".", ","] = "."
    """What numbers written as text have before their fraction."""

    @property
    def width(self) -> int:
        """Number of features."""
        return 2 if self.indicator else 1


class BinnedColumn(Frozen):
    """One-hot: a feature for each range, and one for missing values, the last."""

    kind: Literal["bins"] = "bins"
    name: str
    edges: tuple[float, ...] = Field(min_length=1)
    """Rising; a value belongs to the first range whose edge it is below, else to the one after the last."""
    decimal: Literal[".", ","] = "."
    """What numbers written as text have before their fraction."""

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.edges) + 2


class CategoryColumn(Frozen):
    """One-hot: a feature for each value, one for all other values, and one for missing ones, the last."""

    kind: Literal["category"] = "category"
    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.values) + 2


class HashedColumn(Frozen):
    """One-hot: a feature for each remainder of the value's hash, and one for missing values, the last."""

    kind: Literal["hashed"] = "hashed"
    name: str
    buckets: int = Field(ge=2)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.buckets + 1


class DateColumn(Frozen):
    """Parts of a date; each that comes again as sine and cosine, `days` and `year` as (value - shift) / scale;
    then 1 where the value was missing (the others are 0 there)."""

    kind: Literal["date"] = "date"
    name: str
    format: str | None
    parts: tuple[Literal["days", "year", "month", "day", "weekday", "hour", "minute"], ...]
    shifts: dict[str, float]
    """Of `days` and `year`, where they are among the parts."""
    scales: dict[str, float]

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(1 if part in ("days", "year") else 2 for part in self.parts) + 1


FittedColumn = Annotated[
    NumericColumn | BinnedColumn | CategoryColumn | HashedColumn | DateColumn, Field(discriminator="kind")
]
