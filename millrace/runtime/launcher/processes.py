"""The ranks of one host: processes that are started, listened to and ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from millrace.runtime.context import Rank, Result
from millrace.runtime.launcher.folders import RANK_RESULT, rank_folder
from millrace.runtime.launcher.messages import Cause
from millrace.runtime.process import unexplained
from millrace.runtime.task import Failure, read_failure

__all__ = ["RankProcesses"]

_LINE = 65_536
_DRAIN_SECONDS = 2.0
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
_ABORTED = -signal.SIGABRT


class RankProcesses:
    """The running ranks of this host."""

    def __init__(self, host: int, directory: Path, ranks: Sequence[tuple[Rank, Mapping[str, str]]]) -> None:
        """Start them.

        Args:
            host: Index of this host.
            directory: The task directory.
            ranks: Each with its own environment.

        Raises:
            OSError: When one can't be started; then none is left.
        """
        self.host = host
        self.directory = directory
        self.told_to_stop = False
        self.cause: Cause | None = None
        """Why the first of them failed, or was ended; one that only followed another gives way to that one's."""
        self._ranks = [rank for rank, _ in ranks]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._relays: list[threading.Thread] = []
        self._seen: set[int] = set()
        try:
            for rank, environment in ranks:
                self._processes.append(_start(directory, rank, environment))
                relay = threading.Thread(target=_relay, args=(self._processes[-1].stdout, rank.index), daemon=True)
                relay.start()
                self._relays.append(relay)
        except BaseException:
            self.end(0)
            raise

    @property
    def state(self) -> Literal["running", "failed", "done"]:
        """running, done when all have ended well, or failed."""
        self._look()
        if self.cause is not None:
            return "failed"
        return "done" if len(self._seen) == len(self._processes) else "running"

    @property
    def ended(self) -> tuple[int, ...]:
        """Those that have ended, or said why they will."""
        return tuple(self._ranks[place].index for place in sorted(self._seen))

    @property
    def gone(self) -> bool:
        """Whether none runs any more."""
        return all(process.poll() is not None for process in self._processes)

    def result(self) -> Result:
        """What the rank that writes this host's outputs returned."""
        [writer] = [rank for rank in self._ranks if rank.makes_outputs]
        return Result.model_validate_json((rank_folder(self.directory, writer) / RANK_RESULT).read_bytes())

    def ask_to_stop(self) -> None:
        """Have them end in step, with a checkpoint."""
        if self.told_to_stop:
            return
        self.told_to_stop = True
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                process.terminate()

    def end(self, grace_seconds: float) -> None:
        """Make sure that nothing of them is left; `grace_seconds` is how long they may take by themselves."""
        self.ask_to_stop()
        deadline = time.monotonic() + grace_seconds
        while not self.gone and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for relay in self._relays:
            relay.join(_DRAIN_SECONDS)

    def _look(self) -> None:
        """Take note of ranks that have ended."""
        for place, (rank, process) in enumerate(zip(self._ranks, self._processes, strict=True)):
            code = process.poll()
            if place in self._seen or (code is None and not self._has_failed(rank)):
                continue
            self._seen.add(place)
            cause = self._why(rank, code)
            if cause and (self.cause is None or (self.cause.follows and not cause.follows)):
                self.cause = cause

    def _has_failed(self, rank: Rank) -> bool:
        """Whether a rank has said why it fails; its end takes longer than others need to notice."""
        return (rank_folder(self.directory, rank) / "failure.json").exists()

    def _why(self, rank: Rank, code: int | None) -> Cause | None:
        folder = rank_folder(self.directory, rank)
        if code == 0 and (folder / RANK_RESULT).exists():
            return None
        if code in _STOPPED:
            asked = self.told_to_stop  # else another host was, or is gone: one without a launcher stops all ranks
            told = "it was told to stop" if asked else "it was ended by SIGTERM"
            return Cause(host=self.host, rank=rank.index, kind="stopped", message=told, follows=not asked)
        if failure := read_failure(folder):
            return _cause(self.host, rank.index, failure)
        if code is None:
            return None
        if code == 0:
            failure = Failure(kind="error", message="it ended early, without a result")
        else:
            failure = unexplained(code, self.directory)
        return _cause(self.host, rank.index, failure, lost=True, aborted=code == _ABORTED)


def _cause(host: int, rank: int, failure: Failure, *, lost: bool = False, aborted: bool = False) -> Cause:
    return Cause(
        host=host,
        rank=rank,
        kind=failure.kind,
        message=failure.message,
        follows=failure.follows or aborted,
        lost=lost and failure.kind == "error",
    )


def _start(directory: Path, rank: Rank, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A rank in a process group of its own; it ends when this process does, which closes its standard input."""
    folder = rank_folder(directory, rank)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RANK_RESULT, "failure.json"):
        (folder / name).unlink(missing_ok=True)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "millrace", "exec", "--supervised", "--task", str(directory), "--rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


def _relay(stream: BinaryIO | None, index: int) -> None:
    """Print what a rank prints, each line with its number before it."""
    if stream is None:
        return
    mark = f"[{index}] ".encode()
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline(_LINE):
            sys.stdout.buffer.write(mark + line if line.endswith(b"\n") else mark + line + b"\n")
            sys.stdout.buffer.flush()
