"""What is in a row of a table, as a digest: equal for rows whose values are, differences of space apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl
from polars.selectors import by_name

__all__ = ["as_written", "row_contents"]


def row_contents(batch: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Of each row: `content`, the SHA-256 of its values; their `size` in bytes; and whether it is `empty`.

    Args:
        batch: Rows.
        names: Columns that count; one at least. Their order does not.
    """
    names = sorted(names)
    values = batch.select(as_written(name, batch.schema[name]).alias(f"{at}") for at, name in enumerate(names))
    words = values.select(pl.all().str.replace_all(r"\s+", " ").str.strip_chars())
    told = words.select(
        encoded=pl.concat_str([_encoded(f"{at}", name) for at, name in enumerate(names)]),
        empty=pl.all_horizontal(pl.all().is_null() | (pl.all() == "")),
    )
    size = values.select(pl.sum_horizontal(pl.all().str.len_bytes())).to_series().fill_null(0).cast(pl.Int64)
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in told["encoded"]]
    return pl.DataFrame({"content": pl.Series(digests, dtype=pl.String), "size": size, "empty": told["empty"]})


def as_written(name: str, kind: pl.DataType) -> pl.Expr:
    """A column as text."""
    column = by_name(name).as_expr()  # pl.col would take `^.*$` for a pattern
    if kind == pl.Binary:
        return column.bin.encode("hex")
    if kind.is_nested():
        return pl.when(column.is_not_null()).then(pl.struct(column).struct.json_encode()).alias(name)
    return column.cast(pl.String)


def _encoded(column: str, name: str) -> pl.Expr:
    """A name and its value; lengths keep what follows apart."""
    head = f"{len(name)}:{name}="
    value = (
        pl.when(pl.col(column).is_null())
        .then(pl.lit("-"))
        .otherwise(pl.format("{}:{}", pl.col(column).str.len_chars(), column))
    )
    return pl.lit(head) + value
