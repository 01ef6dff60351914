"""Tables in files, read in batches: CSV, TSV, JSON lines and Parquet. They may be larger than memory.

Of text formats every value is text, as it is written; Parquet has types. Rows count from 0 in the order of the file,
blank lines of CSV and JSON lines left out.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import polars as pl
from polars.datatypes import DataTypeClass
from polars.selectors import by_name

from millrace.data.flaws import find_flaw, open_plain
from millrace.errors import DataError, did_you_mean, is_disk_full
from millrace.runtime.buckets import Patience, copy_from_bucket
from millrace.runtime.separators import separator_of
from millrace.runtime.storage import parse_source

__all__ = [
    "MAX_CELL",
    "MAX_COLUMNS",
    "TableFormat",
    "check_columns",
    "local_copy",
    "read_batches",
    "scan",
    "table_format",
]

TableFormat = Literal["csv", "tsv", "parquet", "jsonl"]

MAX_COLUMNS = 10_000
"""Of one table; with more it is refused."""
MAX_CELL = 1 << 24
"""Bytes of one text in a table; a table with a longer one is refused."""

_ENDINGS: Mapping[str, TableFormat] = {
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_BATCH = 20_000  # rows
_CELLS = 2_000_000  # of a batch
_BYTES = 1 << 26  # of a batch of rows of more than one
_HEAD = 1 << 20  # bytes that are looked at before a table is read


def table_format(key: str) -> TableFormat | None:
    """The format of a table by the ending of its name, None for all other names. Text formats may end with `.gz`."""
    name = key.lower()
    plain = name.removesuffix(".gz")
    found = _ENDINGS.get(Path(plain).suffix)
    return None if found == "parquet" and plain != name else found


def scan(path: Path, form: TableFormat, *, name: str = "") -> pl.LazyFrame:
    """All named columns of a table and all rows, in order: text columns as String, those of Parquet as they are.

    Rows of CSV with fewer values than columns lack the last ones. What separates values is told by the header and the
    first rows: commas, semicolons, tabs or bars.

    Raises:
        DataError: When its start is no such table; what comes later is found when rows are collected.
    """
    with _explained(name or str(path), path, form):
        return _scan(path, form)


def read_batches(
    path: Path, form: TableFormat, columns: Sequence[str] | None = None, *, name: str = ""
) -> Iterator[pl.DataFrame]:
    """The rows of a table in order, in batches of at most 20,000, fewer where rows are large.

    Args:
        path: Of the file.
        form: Of its content.
        columns: Names, in the order wanted; None takes all.
        name: What messages call it; empty takes the path.

    Raises:
        DataError: When it is no such table, lacks a column, or has a value that is too long.
    """
    source = name or str(path)
    with _explained(source, path, form):
        frame = _scan(path, form)
        names = frame.collect_schema().names()
        if columns is not None:
            check_columns(columns, names, source)
        chosen = names if columns is None else list(columns)
        size = _rows_at_a_time(path, form, len(names))
        for batch in frame.select(by_name(*chosen)).collect_batches(chunk_size=size, maintain_order=True):
            _check_cells(batch, form)
            yield from _slices(batch)


def check_columns(wanted: Iterable[str], there: Sequence[str], source: str) -> None:
    """See that columns are there.

    Raises:
        DataError: When one is not.
    """
    for column in wanted:
        if column not in there:
            raise DataError(f"{source} has no column {column!r}: {did_you_mean(column, there)}")


def local_copy(place: str, folder: Path, *, etag: str | None = None, size: int | None = None) -> Path:
    """Where a table can be read here: the file itself, or a copy of the object in a folder.

    Args:
        place: Path or URI.
        folder: Where a copy goes, under a name that goes with the URI. Whoever asks for it removes it.
        etag: That the object must have, when it is known; files have none.
        size: Its bytes, when they are known; files are not measured.

    Raises:
        DataError: When there is no such object, or it is no longer what was listed.
    """
    scheme, rest = parse_source(place)
    if scheme == "file":
        return Path(rest)
    bucket, _, key = rest.partition("/")
    target = folder / hashlib.sha256(place.encode()).hexdigest()[:32]
    copy_from_bucket(scheme, bucket, key, target, Patience(), etag=etag, size=size)
    return target


def _scan(path: Path, form: TableFormat) -> pl.LazyFrame:
    if form == "parquet":
        frame = pl.scan_parquet(path, glob=False)
        _check_width(len(frame.collect_schema()))
        return frame
    head = _head(path, form)
    if form == "jsonl":
        return _scan_lines(path, head)
    if len(head) == _HEAD and b"\n" not in head and b"\r" not in head:
        raise _FlawError(
            f"has a first line of more than {_HEAD} bytes, the limit for the names of columns: shorten or remove some, "
            "or look for a file that is no table"
        )
    separator = _separator(head, form)
    header = _header(head, separator)
    frame = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
    found = frame.collect_schema().names()
    if len(found) != len(header):
        raise _FlawError(
            "has no first line with the names of columns: lines end with \\n or \\r\\n, not with \\r alone"
        )
    named = [name for name, written in zip(found, header, strict=True) if written]
    # All columns are read whichever are chosen: a row with too many values is found, and no other is lost or gained.
    whole = frame.map_batches(
        _without_blank_lines, projection_pushdown=False, predicate_pushdown=False, slice_pushdown=False, streamable=True
    )
    return whole if named == found else whole.select(by_name(*named))


def _scan_lines(path: Path, head: bytes) -> pl.LazyFrame:
    if head.startswith(codecs.BOM_UTF8):
        raise _FlawError("starts with a byte order mark, which JSON lines must not: tail -c +4 FILE > NEW.jsonl")
    names = pl.scan_ndjson(path, infer_schema_length=None).collect_schema().names()
    _check_width(len(names))
    return pl.scan_ndjson(path, schema=dict.fromkeys(names, pl.String))


def _head(path: Path, form: TableFormat) -> bytes:
    """The first bytes of a text format.

    Raises:
        _FlawError: When there is none, or it is in another encoding.
    """
    with open_plain(path) as stream:
        head = stream.read(_HEAD)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise _FlawError(f"is empty: a {form} table needs at least its columns' names")
    # Spreadsheet programs save UTF-16, which else is told as columns full of zero bytes.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:4]:
        raise _FlawError(f"is UTF-16, UTF-8 is needed: save it so, or iconv -f UTF-16 -t UTF-8 FILE > NEW.{form}")
    return head


def _separator(head: bytes, form: TableFormat) -> str:
    return "\t" if form == "tsv" else separator_of(_text(head), whole=len(head) < _HEAD)


def _text(head: bytes) -> str:
    return head.decode("utf-8-sig", errors="replace").lstrip("\r\n")


def _header(head: bytes, separator: str) -> list[str]:
    """Columns as the first line has them.

    Raises:
        _FlawError: When two have the same name, or it is no header.
    """
    names = next(csv.reader(io.StringIO(_text(head), newline=""), delimiter=separator), [])
    _check_width(len(names))
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise _FlawError(f"has the column {twice[0]!r} more than once: rename or remove one")
    return names


def _without_blank_lines(batch: pl.DataFrame) -> pl.DataFrame:
    blank: pl.Series | None = None
    for column in batch.iter_columns():
        blank = column.is_null() if blank is None else blank & column.is_null()
        if not blank.any():
            return batch
    return batch if blank is None else batch.filter(~blank)


def _rows_at_a_time(path: Path, form: TableFormat, columns: int) -> int:
    rows = min(_BATCH, _CELLS // max(columns, 1))
    if form != "parquet":
        head = _head(path, form)
        rows = min(rows, _BYTES * max(head.count(b"\n"), 1) // len(head))
    return max(rows, 1)


def _check_width(columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise _FlawError(f"has {columns} columns, the limit is {MAX_COLUMNS}: keep those that are needed")


def _check_cells(batch: pl.DataFrame, form: TableFormat) -> None:
    for column, kind in batch.schema.items():
        if kind != pl.String:
            continue
        longest = batch[column].str.len_bytes().max()
        if isinstance(longest, int) and longest > MAX_CELL:
            raise _FlawError(
                f"has a value of {longest} bytes in column {column!r}, the limit is {MAX_CELL}: shorten it, or look "
                "for a quote that is never closed"
            )
        if form in ("csv", "tsv") and batch[column].str.contains("\0", literal=True).any():
            raise _FlawError(f"has a zero byte in column {column!r}: it is damaged, or no table in UTF-8")


def _slices(batch: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The same rows, fewer at a time where they are large: in Parquet, one long text may stand in many rows."""
    sizes = pl.zeros(batch.height, pl.Int64, eager=True)
    for column in batch.iter_columns():
        if column.dtype.is_nested() or column.dtype in (pl.String, pl.Binary):
            size = column.alias("").to_frame().select(_size(pl.col(""), column.dtype).cast(pl.Int64)).to_series()
            sizes += size.fill_null(0)
    parts = sizes.cum_sum() // _BYTES
    for start, end in pairwise((0, *(parts != parts.shift()).arg_true(), batch.height)):
        yield batch[start:end]


def _size(values: pl.Expr, kind: pl.DataType | DataTypeClass) -> pl.Expr:
    """Bytes of each value; numbers count as 8."""
    if kind == pl.String:
        return values.str.len_bytes()
    if kind == pl.Binary:
        return values.bin.size()
    if isinstance(kind, pl.Array):
        return _size(values.arr.to_list(), pl.List(kind.inner))
    if isinstance(kind, pl.List):
        return values.list.eval(_size(pl.element(), kind.inner)).list.sum()
    if isinstance(kind, pl.Struct):
        return pl.sum_horizontal(pl.lit(0), *(_size(values.struct.field(one.name), one.dtype) for one in kind.fields))
    return pl.lit(8)


class _FlawError(Exception):
    """What is wrong with a table, without its name."""


@contextmanager
def _explained(source: str, path: Path, form: TableFormat) -> Iterator[None]:
    """What goes wrong with a file is the file's fault, and is told in a line."""
    try:
        yield
    except _FlawError as flaw:
        raise DataError(f"{source} {flaw}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, EOFError, OSError) as error:
        if is_disk_full(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        told = _flaw(path, form) or f"can't be read as {form}: {reason}"
        raise DataError(f"{source} {told}") from error


def _flaw(path: Path, form: TableFormat) -> str | None:
    if form == "parquet":
        return None
    try:
        separator = None if form == "jsonl" else _separator(_head(path, form), form)
    except (_FlawError, OSError, EOFError):
        return None
    return find_flaw(path, separator, form)
