"""Rows of tables, and what becomes of each column."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Bins", "Category", "Column", "Date", "Hashed", "Numeric", "TabularData"]


class Numeric(Parameters):
    """A number, as one feature."""

    kind: Literal["numeric"] = "numeric"
    """How the column is taken."""
    scaling: Literal["standard", "min_max", "none"] = "standard"
    """standard: mean 0 and deviation 1 over the training rows; min_max: 0 to 1 over them; none: as it is."""
    missing: Literal["mean", "median", "zero"] = "median"
    """What stands for a missing value, before scaling."""
    indicator: bool = True
    """One more feature, 1 where the value is missing; left out when no training row lacks one."""


class Bins(Parameters):
    """A number, as one of several ranges (one-hot)."""

    kind: Literal["bins"] = "bins"
    """How the column is taken."""
    count: int = Field(default=10, ge=2, le=1000)
    """Ranges that hold equally many training rows (quantiles), fewer where values repeat."""
    edges: tuple[float, ...] | None = Field(default=None, min_length=1)
    """Where ranges end, rising, instead of quantiles: `[18, 65]` makes three."""

    @model_validator(mode="after")
    def _rising(self) -> Bins:
        if self.edges is not None and any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges must rise: {list(self.edges)}")
        return self


class Category(Parameters):
    """One of a few texts, as one feature each (one-hot)."""

    kind: Literal["category"] = "category"
    """How the column is taken."""
    minimum: int = Field(default=1, ge=1)
    """Training rows that a value needs; rarer ones, and ones that training has not seen, share a feature."""
    most: int = Field(default=100, ge=1, le=10_000)
    """Most values with a feature of their own, the most frequent."""


class Hashed(Parameters):
    """One of very many texts: a feature for each remainder of its hash (one-hot)."""

    kind: Literal["hashed"] = "hashed"
    """How the column is taken."""
    buckets: int = Field(default=64, ge=2, le=100_000)
    """Features; values that share one can't be told apart."""


class Date(Parameters):
    """A date or time: parts of it, on circles where they come again."""

    kind: Literal["date"] = "date"
    """How the column is taken."""
    format: str | None = Field(default=None, min_length=1)
    """As in strftime: `%d.%m.%Y`. None: ISO 8601, or a date type of Parquet."""
    parts: tuple[Literal["days", "year", "month", "day", "weekday", "hour", "minute"], ...] = Field(
        default=("days", "month", "weekday"), min_length=1
    )
    """days: since 1970, and year: standardised; others: sine and cosine."""


Column = Annotated[Numeric | Bins | Category | Hashed | Date, Field(discriminator="kind")]


class TabularData(Parameters):
    """Rows of tables as vectors of features. What is learnt from data is learnt from the training rows alone."""

    kind: Literal["tabular"] = "tabular"
    """What the objects are; the choice of the other fields goes with it."""
    columns: dict[str, Column] = Field(default_factory=dict)
    """Columns by name and what becomes of them: `{age: {kind: bins, count: 5}}`."""
    exclude: tuple[str, ...] = ()
    """Columns to leave out, ids for one. Those of labels and groups are left out anyway."""
    decimal: Literal[".", ","] = "."
    """What numbers in text have before their fraction: with `,` 1,5 is a number and 1.5 is none. Numbers of JSON and
    Parquet are what they are."""
    others: Literal["auto", "ignore"] = "auto"
    """Columns that are not named: auto takes them by their values in the training rows (numbers are numeric, dates
    date, the rest category); ignore leaves them out."""
    numeric: Numeric = Numeric()
    """How such a column is taken that is not named."""
    category: Category = Category()
    """The same."""
    date: Date = Date()
    """The same."""
