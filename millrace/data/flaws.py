"""Where a table in text is broken, for messages: its reader tells neither line nor encoding."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

__all__ = ["GZIP", "find_flaw", "open_plain"]

GZIP = b"\x1f\x8b"
"""What packed files begin with."""


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
