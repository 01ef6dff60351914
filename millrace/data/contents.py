"""What is in a row of a table, as a digest: equal for rows whose values are, differences of space apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
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
    shape = batch.height, len(names)
    texts = _row_by_row([_text(batch[name]) for name in names])
    words = texts.str.replace_all(r"\s+", " ").str.strip_chars()
    blank = (words.is_null() | (words == "")).to_numpy().reshape(shape)
    sizes = texts.str.len_bytes().fill_null(0).to_numpy().reshape(shape)
    heads = pl.Series([f"{len(name)}:{name}=" for name in names], dtype=pl.String)
    told = _encoded(words, heads.gather(np.tile(np.arange(len(names)), batch.height)))
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in told.reshape((-1, len(names))).arr.join("")]
    return pl.DataFrame(
        {
            "content": pl.Series(digests, dtype=pl.String),
            "size": sizes.sum(axis=1, dtype=np.int64),
            "empty": blank.all(axis=1),
        }
    )


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


def _row_by_row(columns: Sequence[pl.Series]) -> pl.Series:
    """All values, a row after the other: thousands of columns take no longer than their values as one column do."""
    rows = len(columns[0])
    below = pl.concat([column.alias("") for column in columns], rechunk=True)
    return below.gather(np.arange(rows * len(columns)).reshape((len(columns), rows)).T.ravel())


def _text(values: pl.Series) -> pl.Series:
    kind = values.dtype
    if kind == pl.String:
        return values
    if kind.is_nested() or kind in (pl.Binary, pl.Duration):
        return values.to_frame().select(as_written(values.name, kind)).to_series()
    return values.cast(pl.String)


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


def _encoded(words: pl.Series, heads: pl.Series) -> pl.Series:
    """Names and their values; lengths keep what follows apart."""
    length = pl.col("word").str.len_chars()
    values = pl.concat_str("head", length, pl.lit(":"), "word")
    told = pl.DataFrame({"head": heads, "word": words}).select(values).to_series()
    return told.zip_with(words.is_not_null(), heads + "-") if words.null_count() else told
