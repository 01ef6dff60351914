"""What is in a row of a table, as a digest: equal for rows whose values are, differences of space apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import polars as pl
from polars.datatypes import DataTypeClass
from polars.selectors import by_name

__all__ = ["as_written", "is_written", "row_contents", "whole_row"]


def row_contents(batch: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Of each row: `content`, the SHA-256 of its values; their `size` in bytes; and whether it is `empty`.

    Args:
        batch: Rows.
        names: Columns that count; one at least. Their order does not.
    """
    names = sorted(names)
    # Columns are numbered and taken one by one: an expression that names one of ten thousand looks at all of them.
    values = pl.DataFrame([_text(batch[name]).rename(f"{at}") for at, name in enumerate(names)])
    words = [one.str.replace_all(r"\s+", " ").str.strip_chars() for one in values.iter_columns()]
    told = pl.DataFrame([_encoded(one, name) for one, name in zip(words, names, strict=True)])
    encoded = told.select(pl.concat_str(pl.all())).to_series()
    empty = pl.DataFrame(words).select(pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))).to_series()
    size = values.select(pl.sum_horizontal(pl.all().str.len_bytes())).to_series().fill_null(0).cast(pl.Int64)
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in encoded]
    return pl.DataFrame({"content": pl.Series(digests, dtype=pl.String), "size": size, "empty": empty})


def whole_row(schema: Mapping[str, pl.DataType], own: Collection[str | None]) -> list[str]:
    """The columns of which a row's `row_digest` is: all that can be written as text, but those of class and group.

    Args:
        schema: Of the table.
        own: The columns of class and group.
    """
    return [name for name, kind in schema.items() if name not in own and is_written(kind)]


def is_written(kind: pl.DataType) -> bool:
    """Whether a column can be written as text: bytes inside lists and structs can't."""
    if isinstance(kind, pl.Struct):
        return all(_is_json(field.dtype) for field in kind.fields)
    if isinstance(kind, pl.List | pl.Array):
        return _is_json(kind.inner)
    return kind != pl.Object


def _is_json(kind: pl.DataType | DataTypeClass) -> bool:
    return kind != pl.Binary and isinstance(kind, pl.DataType) and is_written(kind)


def _text(values: pl.Series) -> pl.Series:
    return (
        values
        if values.dtype == pl.String
        else values.to_frame().select(as_written(values.name, values.dtype)).to_series()
    )


def as_written(name: str, kind: pl.DataType) -> pl.Expr:
    """A column as text."""
    column = by_name(name).as_expr()  # pl.col would take `^.*$` for a pattern
    if kind == pl.Binary:
        return column.bin.encode("hex")
    if kind == pl.Duration:
        return column.cast(pl.Int64).cast(pl.String)
    if kind.is_nested():
        return pl.when(column.is_not_null()).then(pl.struct(column).struct.json_encode()).alias(name)
    return column.cast(pl.String)


def _encoded(words: pl.Series, name: str) -> pl.Series:
    """A name and its value; lengths keep what follows apart."""
    head = f"{len(name)}:{name}="
    value = head + words.str.len_chars().cast(pl.String) + ":" + words
    return value.fill_null(f"{head}-").rename(words.name)
