"""Tables that others have made, read by a process of its own, which alone ends when a file is hostile.

Readers of tables are large programs in C++ and Rust, which damage can make end their process or take all memory: a page
of a few bytes, or a quote that is never closed, may claim, or be, gigabytes. So the process has limits on memory and on
time, and a file that makes it end is told as damaged.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal, cast

import polars as pl

from millrace.data.flaws import FlawError
from millrace.errors import TransientError

__all__ = ["UnreadableError", "read_frames"]

_MEMORY = 4 << 30
"""Bytes that the process may allocate."""
_SLOTS = 2  # answers that are made before they are asked for
_ENVIRONMENT: Mapping[str, str] = {
    # Arenas and stacks of threads count as memory that is allocated: there shall be few on large machines, too.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "2",
    "POLARS_ROW_GROUP_PREFETCH_SIZE": "1",
    "RUST_BACKTRACE": "0",
}
_idle: list[_Process] = []


class UnreadableError(Exception):
    """Why a file can't be read."""


def read_frames(
    path: Path, form: str, columns: Sequence[str] | None, rows: int, most: int
) -> Generator[pl.DataFrame, None, None]:
    """One frame without rows, for the types of columns, then all rows of a table in order.

    Args:
        path: Of the file.
        form: Of its content.
        columns: Names, in the order wanted; None takes all.
        rows: Of a frame, at most; 0 takes none.
        most: Bytes of a frame of more rows than one, about, as they are in memory.

    Raises:
        FlawError: When what is wrong with it is known.
        UnreadableError: When it can't be read.
        TransientError: When somebody else has ended the process, as the kernel does when memory runs out.
    """
    process = _reader()
    wanted = None if columns is None else [*columns]
    process.ask({"path": str(path.absolute()), "form": form, "columns": wanted, "rows": rows, "most": most})
    try:
        while (body := process.answer()) is not None:
            frame = pl.read_ipc_stream(io.BytesIO(body))
            process.tell(b"more\n")
            yield frame
    finally:
        process.stop()


def _reader() -> _Process:
    """A process that waits for a file, or a new one."""
    while _idle:
        process = _idle.pop()
        if process.lives():
            return process
        process.end()
    return _Process()


class _Process:
    """A process that reads tables; it is kept for others, as it takes a moment to start."""

    def __init__(self) -> None:
        self._slots = [_shared_file() for _ in range(_SLOTS)]
        complaints = _shared_file()  # of panics, which it looks at
        self._turn = 0
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "millrace.data.table_process", str(_MEMORY), *map(str, self._slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            pass_fds=self._slots,
            env=os.environ | _ENVIRONMENT,
        )
        os.close(complaints)
        self._child, self._to, self._from = child, cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
        self._state: Literal["idle", "answering", "broken"] = "idle"

    def ask(self, request: Mapping[str, object]) -> None:
        """Begin with a file."""
        self.tell(json.dumps(request).encode() + b"\n" + b"more\n" * _SLOTS)
        self._state, self._turn = "answering", 0

    def tell(self, line: bytes) -> None:
        """Send a line; if the process has ended, its answer tells why."""
        with suppress(BrokenPipeError):
            self._to.write(line)
            self._to.flush()

    def answer(self) -> bytes | None:
        """Rows, or None when there are no more.

        Raises:
            FlawError: When what is wrong with the file is known.
            UnreadableError: When it can't be read.
            TransientError: When somebody else has ended the process.
        """
        self._state = "broken"  # until all of it was read
        kind, _, length = self._from.readline().decode().partition(" ")
        if kind == "rows":
            self._state = "answering"
            self._turn += 1
            return os.pread(self._slots[(self._turn - 1) % _SLOTS], int(length), 0)
        told = self._from.read(int(length or "0"))
        if not kind or len(told) < int(length):
            raise UnreadableError(self._death())
        self._state = "idle"
        if kind != "end":
            raise (FlawError if kind == "flaw" else UnreadableError)(told.decode())
        return None

    def stop(self) -> None:
        """Finish with a file."""
        self.tell(b"stop\n")
        while self._state == "answering":
            with suppress(FlawError, UnreadableError, TransientError):
                self.answer()
        if self._state == "idle":
            _idle.append(self)
        else:
            self.end()

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def end(self) -> None:
        """End it."""
        with suppress(BrokenPipeError):
            self._to.close()  # at which it ends by itself when it is idle
        if self._state != "idle":
            self._child.kill()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._from.close()
        for slot in self._slots:
            os.close(slot)

    def _death(self) -> str:
        code = self._child.wait()
        if code > 0 and find_spec("pyarrow") is None:
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        if code == -signal.SIGKILL:  # its own limits end it otherwise
            raise TransientError("the process that reads tables was killed; most often the machine ran out of memory")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its reader ended with {how}: it is damaged, or takes more than {_MEMORY >> 20} MB of memory"


def _shared_file() -> int:
    """A file in memory without a name: twice as fast as a pipe."""
    if sys.platform == "linux":
        return os.memfd_create("millrace")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@atexit.register
def _end_all() -> None:
    for process in _idle:
        process.end()
