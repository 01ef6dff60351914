"""Tables in text as Arrow streams: CSV, TSV and JSON lines. Every value is text, as it is written."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Generator, Iterator
from pathlib import Path

import polars as pl
from polars.selectors import by_name

from millrace.data.flaws import MAX_CELL, FlawError, check_header, check_size, chosen_columns, find_flaw, open_plain
from millrace.runtime.separators import separator_of

__all__ = ["CELLS", "arrow_streams", "text_parts"]

CELLS = 2_000_000
"""Values of a part of a table."""
_HEAD = 1 << 20  # bytes that are looked at before a table is read


def text_parts(
    path: Path, form: str, columns: list[str] | None, rows: int, most: int
) -> Generator[memoryview, None, None]:
    """No rows of a table, for their names, then all rows in order, as Arrow streams.

    What separates values of CSV is told by the header and the first rows: commas, semicolons, tabs or bars.

    Args:
        path: Of the file.
        form: csv, tsv or jsonl.
        columns: Which, in the order wanted; None takes all.
        rows: Of a part, at most; 0 takes none.
        most: Bytes of a part of more than one row, about.

    Raises:
        FlawError: When what is wrong with it is known.
    """
    head = _head(path, form)
    separator = None
    if form != "jsonl":
        separator = "\t" if form == "tsv" else separator_of(_text(head), whole=len(head) < _HEAD)
    try:
        frame = _scan_lines(path, head) if separator is None else _scan_values(path, head, separator)
        names = frame.collect_schema().names()
        chosen = chosen_columns(columns, names)
        yield from arrow_streams(pl.DataFrame(schema=dict.fromkeys(chosen, pl.String)), most)
        if not rows:
            return
        size = min(rows, CELLS // max(len(names), 1), most * max(head.count(b"\n"), 1) // len(head))
        found = frame.select(by_name(*chosen)).collect_batches(chunk_size=max(size, 1), maintain_order=True)
        for batch in found:
            _check_cells(batch, zeros=separator is None)
            yield from arrow_streams(batch, most)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        if flaw := find_flaw(path, separator, form):
            raise FlawError(flaw) from None
        raise


def arrow_streams(batch: pl.DataFrame, most: int) -> Iterator[memoryview]:
    """Rows in several streams when they have more bytes than wanted."""
    if batch.height > 1 and batch.estimated_size() > most:
        half = batch.height // 2
        yield from arrow_streams(batch[:half], most)
        yield from arrow_streams(batch[half:], most)
        return
    stream = io.BytesIO()
    batch.write_ipc_stream(stream)
    yield stream.getbuffer()


def _scan_values(path: Path, head: bytes, separator: str) -> pl.LazyFrame:
    """All named columns of CSV or TSV and all rows; rows with fewer values than columns lack the last ones."""
    if len(head) == _HEAD and b"\n" not in head and b"\r" not in head:
        raise FlawError(
            f"has a first line of more than {_HEAD} bytes, the limit for the names of columns: shorten or remove some, "
            "or look for a file that is no table"
        )
    header = _header(head, separator)
    frame = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
    found = frame.collect_schema().names()
    if len(found) != len(header):
        raise FlawError("has no first line with the names of columns: lines end with \\n or \\r\\n, not with \\r alone")
    named = [name for name, written in zip(found, header, strict=True) if written]
    # All columns are read whichever are chosen: a row with too many values is found, and no other is lost or gained.
    whole = frame.map_batches(
        _without_blank_lines, projection_pushdown=False, predicate_pushdown=False, slice_pushdown=False, streamable=True
    )
    return whole if named == found else whole.select(by_name(*named))


def _scan_lines(path: Path, head: bytes) -> pl.LazyFrame:
    if head.startswith(codecs.BOM_UTF8):
        raise FlawError("starts with a byte order mark, which JSON lines must not: tail -c +4 FILE > NEW.jsonl")
    names = pl.scan_ndjson(path, infer_schema_length=None).collect_schema().names()
    check_header(names)
    return pl.scan_ndjson(path, schema=dict.fromkeys(names, pl.String))


def _head(path: Path, form: str) -> bytes:
    """The first bytes of a text format.

    Raises:
        FlawError: When there is none, or it is in another encoding.
    """
    with open_plain(path) as stream:
        head = stream.read(_HEAD)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise FlawError(f"is empty: a {form} table needs at least its columns' names")
    # Spreadsheet programs save UTF-16, which else is told as columns full of zero bytes.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:4]:
        raise FlawError(f"is UTF-16, UTF-8 is needed: save it so, or iconv -f UTF-16 -t UTF-8 FILE > NEW.{form}")
    return head


def _text(head: bytes) -> str:
    return head.decode("utf-8-sig", errors="replace").lstrip("\r\n")


def _header(head: bytes, separator: str) -> list[str]:
    """Columns as the first line has them.

    Raises:
        FlawError: When two have the same name, or it is no header.
    """
    names = next(csv.reader(io.StringIO(_text(head), newline=""), delimiter=separator), [])
    check_header(names)
    return names


def _without_blank_lines(batch: pl.DataFrame) -> pl.DataFrame:
    blank: pl.Series | None = None
    for column in batch.iter_columns():
        blank = column.is_null() if blank is None else blank & column.is_null()
        if not blank.any():
            return batch
    return batch if blank is None else batch.filter(~blank)


def _check_cells(batch: pl.DataFrame, *, zeros: bool) -> None:
    whole = pl.concat([pl.Series([], dtype=pl.String), *batch.iter_columns()])  # one by one takes longer than reading
    if (zeros or not _has_zeros(whole)) and not whole.str.len_bytes().gt(MAX_CELL).any():
        return
    for column in batch.iter_columns():
        check_size(column.str.len_bytes().max(), column.name)
        if not zeros and _has_zeros(column):
            raise FlawError(f"has a zero byte in column {column.name!r}: it is damaged, or no table in UTF-8")


def _has_zeros(texts: pl.Series) -> bool:
    return texts.str.contains("\0", literal=True).any()
