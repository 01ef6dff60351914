"""How rows of tables are called: as their table, and `#row=NUMBER`, from 0."""

from __future__ import annotations

import polars as pl

__all__ = ["ROW_NAME", "table_of"]

ROW_NAME = pl.format("#row={}", "row")
"""What comes after the URI or key of the table; null for whole objects."""


def table_of(name: str) -> pl.Expr:
    """The table of each row by its URI or key; whole objects are called as they are.

    Args:
        name: Of the column; there is a column `row` beside it.
    """
    return pl.coalesce(pl.col(name).str.strip_suffix(ROW_NAME), name)
