"""What is wrong with a table, and where a text is broken: its reader tells neither line nor encoding."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from millrace.errors import did_you_mean

__all__ = [
    "GZIP",
    "MAX_CELL",
    "MAX_COLUMNS",
    "FlawError",
    "check_header",
    "check_size",
    "chosen_columns",
    "find_flaw",
    "open_plain",
]

MAX_COLUMNS = 10_000
"""Of one table; with more it is refused."""
MAX_CELL = 1 << 24
"""Bytes of one text in a table; a table with a longer one is refused."""

GZIP = b"\x1f\x8b"
"""What packed files begin with."""


class FlawError(Exception):
    """What is wrong with a table, without its name."""


def check_header(names: Sequence[str]) -> None:
    """See that columns are not too many, and none is there twice.

    Raises:
        FlawError: When they are.
    """
    if len(names) > MAX_COLUMNS:
        raise FlawError(f"has {len(names)} columns, the limit is {MAX_COLUMNS}: keep those that are needed")
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise FlawError(f"has the column {twice[0]!r} more than once: rename or remove one")


def chosen_columns(wanted: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """Those that are wanted, all when there is no wish.

    Raises:
        FlawError: When one is not there.
    """
    known = set(there)
    for column in wanted or ():
        if column not in known:
            raise FlawError(f"has no column {column!r}: {did_you_mean(column, there)}")
    return list(there if wanted is None else wanted)


def check_size(longest: object, column: str) -> None:
    """See that no text is too long.

    Args:
        longest: Bytes of the longest; None when there is none.
        column: Where it is.

    Raises:
        FlawError: When it is.
    """
    if isinstance(longest, int) and longest > MAX_CELL:
        raise FlawError(
            f"has a value of {longest} bytes in column {column!r}, the limit is {MAX_CELL}: shorten it, or look "
            "for a quote that is never closed"
        )


def find_flaw(path: Path, separator: str | None, ending: str) -> str | None:
    """The first line that is not UTF-8, or that has more values than the header; None when there is none.

    Args:
        path: Of a text file, maybe packed with gzip. All of it may be read.
        separator: Of values; None for JSON lines, whose values are not counted.
        ending: Of the name of a file in this format.
    """
    try:
        with open_plain(path) as stream:
            lines = _decoded(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""), ending)
            if separator is not None:
                return _too_many(lines, separator)
            for _ in lines:
                pass
    except _NotUtf8Error as error:
        return str(error)
    except (csv.Error, OSError, EOFError):
        pass
    return None


def open_plain(path: Path) -> BinaryIO:
    """A file, unpacked while it is read if it is packed."""
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _too_many(lines: Iterable[str], separator: str) -> str | None:
    reader = csv.reader(lines, delimiter=separator)
    columns = first = 0
    for row in reader:
        columns = columns or len(row)
        if len(row) > columns:
            return (
                f"has {len(row)} values in line {first + 1}, the header names {columns} columns, separated by "
                f"{separator!r}: put values that hold one in double quotes, or remove those that are too many"
            )
        first = reader.line_num
    return None


def _decoded(lines: Iterable[str], ending: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise _NotUtf8Error(
                f"is not UTF-8 in line {number} (byte 0x{byte:02X}), UTF-8 is needed: save it so, or for files of "
                f"older Windows programs iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW.{ending}"
            ) from None
        yield line


class _NotUtf8Error(Exception):
    """What is told of it."""
