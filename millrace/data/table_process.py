"""A process that reads tables, and nothing else: a hostile file may end it, and its memory and time have limits.

`millrace.data.table_reader` starts it. A request is a line of JSON, the parameters of `_parts`. Before each answer to
it a line `more` is waited for, and after the last one the line `stop`, which may come at any time. An answer is a line
with its kind and length. Rows are an Arrow stream in one of some files that both processes have open, in turn; the text
of a `flaw` or an `error` follows the line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import polars as pl

from millrace.data.flaws import FlawError
from millrace.data.parquet_tables import parquet_parts
from millrace.data.text_tables import text_parts

__all__ = ["main"]

_SECONDS = 300  # of CPU for one answer
_KEPT = 1 << 26  # bytes of a file for rows that are kept
_SPEED = 1_000_000  # bytes of a file for which there is another second


def main(memory: int, slots: Sequence[int]) -> None:
    """Answer requests until there are no more.

    Args:
        memory: Bytes that may be allocated.
        slots: Descriptors of the files for rows.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with whoever asks
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_CORE, 0)
    while line := sys.stdin.buffer.readline():
        stopped = False
        try:
            stopped = _answer(json.loads(line), slots)
        except FlawError as flaw:
            _send("flaw", str(flaw))
        except MemoryError:
            _send("error", f"it needs more than {memory >> 20} MB of memory, or claims to")
        except (Exception, pl.exceptions.PanicException) as error:
            _send("error", str(error) or type(error).__name__)
        else:
            _send("end")
        while not stopped:
            stopped = sys.stdin.buffer.readline() in (b"stop\n", b"")


def _answer(request: dict[str, Any], slots: Sequence[int]) -> bool:
    """Send parts of a file; whether there may be more, that are not wanted."""
    seconds = _SECONDS + Path(request["path"]).stat().st_size // _SPEED
    os.ftruncate(sys.stderr.fileno(), 0)
    os.lseek(sys.stderr.fileno(), 0, os.SEEK_SET)
    with closing(_parts(**request)) as parts:
        for slot in cycle(slots):
            if sys.stdin.buffer.readline() != b"more\n":
                return True
            used = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)
            if (part := next(parts, None)) is None:
                _see_that_nothing_panicked()
                return False
            os.ftruncate(slot, max(len(part), _KEPT))
            os.pwrite(slot, part, 0)
            _tell(f"rows {len(part)}\n".encode())
    return True


def _parts(path: str, form: str, columns: list[str] | None, rows: int, most: int) -> Generator[memoryview, None, None]:
    """No rows of a file, for their types, then all rows in order, as Arrow streams.

    Args:
        path: Of the file.
        form: Of its content.
        columns: Which, in the order wanted; None takes all.
        rows: Of a part, at most; 0 takes none.
        most: Bytes of a part of more than one row, about.
    """
    if form == "parquet":
        return parquet_parts(Path(path), columns, rows, most)
    return text_parts(Path(path), form, columns, rows, most)


def _see_that_nothing_panicked() -> None:
    """A panic in a thread of polars may end the rows as if there were no more; it is told on stderr alone."""
    complaints = os.pread(sys.stderr.fileno(), 1 << 16, 0).decode(errors="replace").splitlines()
    for line, following in pairwise([*complaints, ""]):
        if "panicked at" in line:
            raise RuntimeError(following)


def _send(kind: str, told: str = "") -> None:
    text = told.encode(errors="replace")
    _tell(f"{kind} {len(text)}\n".encode() + text)


def _tell(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _limit(what: int, amount: int) -> None:
    most = resource.getrlimit(what)[1]
    with suppress(ValueError):  # of systems that know no such limit
        resource.setrlimit(what, (amount if most == resource.RLIM_INFINITY else min(amount, most), most))


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(slot) for slot in sys.argv[2:]])
