"""Tables in files, read in batches: CSV, TSV, JSON lines and Parquet. They may be larger than memory.

Of text formats every value is text, as it is written; Parquet has types. Rows count from 0 in the order of the file,
blank lines of CSV and JSON lines left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import polars as pl

from millrace.data.flaws import MAX_CELL, MAX_COLUMNS, FlawError, chosen_columns
from millrace.data.table_reader import UnreadableError, read_frames
from millrace.errors import DataError
from millrace.runtime.buckets import Patience, copy_from_bucket
from millrace.runtime.storage import parse_source

__all__ = [
    "MAX_CELL",
    "MAX_COLUMNS",
    "TableFormat",
    "check_columns",
    "local_copy",
    "read_batches",
    "table_format",
    "table_schema",
]

TableFormat = Literal["csv", "tsv", "parquet", "jsonl"]

_ENDINGS: Mapping[str, TableFormat] = {
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_BATCH = 20_000  # rows
_BYTES = 1 << 26  # of a batch of rows of more than one


def table_format(key: str) -> TableFormat | None:
    """The format of a table by the ending of its name, None for all other names. Text formats may end with `.gz`."""
    name = key.lower()
    plain = name.removesuffix(".gz")
    found = _ENDINGS.get(Path(plain).suffix)
    return None if found == "parquet" and plain != name else found


def table_schema(path: Path, form: TableFormat, *, name: str = "") -> pl.Schema:
    """The named columns of a table: those of text formats are String, those of Parquet have their types.

    What separates values of CSV is told by the header and the first rows: commas, semicolons, tabs or bars.

    Raises:
        DataError: When its start is no such table; what comes later is found when rows are read.
    """
    with _explained(name or str(path), form), closing(read_frames(path, form, None, 0, 0)) as frames:
        return next(frames).schema


def read_batches(
    path: Path, form: TableFormat, columns: Sequence[str] | None = None, *, name: str = ""
) -> Iterator[pl.DataFrame]:
    """The rows of a table in order, in batches of at most 20,000, fewer where rows are large.

    Rows of CSV with fewer values than columns lack the last ones.

    Args:
        path: Of the file.
        form: Of its content.
        columns: Names, in the order wanted; None takes all.
        name: What messages call it; empty takes the path.

    Raises:
        DataError: When it is no such table, lacks a column, or has a value that is too long.
    """
    with _explained(name or str(path), form), closing(read_frames(path, form, columns, _BATCH, _BYTES)) as frames:
        for frame in frames:
            if frame.height:
                yield frame


def check_columns(wanted: Sequence[str], there: Sequence[str], source: str) -> None:
    """See that columns are there.

    Raises:
        DataError: When one is not.
    """
    try:
        chosen_columns(wanted, there)
    except FlawError as flaw:
        raise DataError(f"{source} {flaw}") from None


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


@contextmanager
def _explained(source: str, form: TableFormat) -> Iterator[None]:
    """What goes wrong with a file is the file's fault, and is told in a line."""
    try:
        yield
    except FlawError as flaw:
        raise DataError(f"{source} {flaw}") from None
    except (UnreadableError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{source} can't be read as {form}: {reason}") from error
