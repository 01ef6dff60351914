"""One worker of a task on this machine: its process, its attempts, how it ended."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import TaskFailedError, TransientError, UserError
from millrace.runners.report_text import shorten
from millrace.runners.stop import Stop
from millrace.runtime.process import end_group, unexplained
from millrace.runtime.task import Failure, TaskRequest, TaskResult, launch, read_failure, read_result
from millrace.specs import Retries

__all__ = ["Cancelled", "Worker", "last_lines"]

_GRACE_SECONDS = 20.0
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE = 1000
_NOISE = re.compile(
    r"(\[\d+\] )?"  # a rank's
    r"(WARNING: All log messages before absl::InitializeLog|To enable the following instructions: "
    r"|[IWE]\d{4} [\d:.]+ +\d+ (port|cpu_feature_guard|cudart_stub|cuda_platform)\.cc:\d+\])"
)
"""What TensorFlow finds on a machine without a GPU."""


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was cancelled while the worker ran."""


@dataclass
class Worker:
    """Runs one task directory until it has a result or has failed for good."""

    directory: Path
    request: TaskRequest
    retries: Retries
    timeout_seconds: float
    stop: Stop
    attempts: int = 0

    def run(self) -> TaskResult:
        """Run the worker's attempts.

        Raises:
            TaskFailedError: When the last attempt failed; `UserError` when the mistake is the user's.
            Cancelled: When the run was cancelled meanwhile.
        """
        self.request.write(self.directory)
        while True:
            self.attempts += 1
            failure = self._attempt()
            if failure is None:
                result = read_result(self.directory)
                if result is not None:
                    return result
                failure = Failure(kind="error", message="the worker ended well but left no result")
            if failure.kind != "transient" or self.attempts > self.retries.limit:
                raise _as_error(failure, self.attempts)
            if self.stop.asked.wait(self.retries.delay(self.attempts)):
                raise Cancelled

    def _attempt(self) -> Failure | None:
        process = launch(self.directory)
        try:
            code = self._wait(process)
        finally:
            end_group(process, _GRACE_SECONDS, self.stop.at_once)
        if code == 0:
            return None
        return read_failure(self.directory) or unexplained(code, self.directory)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            try:
                return process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                if self.stop.asked.is_set():
                    raise Cancelled from None
                if time.monotonic() > deadline:
                    message = f"it ran longer than its limit of {self.timeout_seconds / 60:g} minutes and was ended"
                    raise _as_error(Failure(kind="error", message=message), self.attempts) from None


def last_lines(file: Path, count: int = 20) -> list[str]:
    """The last lines of the last attempt's log, without what moves a terminal's cursor or colours.

    What TensorFlow says of the machine when it is imported is left out. Empty when there is no log.
    """
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            stream.seek(max(_start(file, size), size - 65_536))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [shorten(_CONTROL.sub("", line), _LINE) for line in lines if not _NOISE.match(line)][-count:]


def _start(log: Path, size: int) -> int:
    """Where the last attempt begins; 0 when that is not known."""
    try:
        start = int(log.with_suffix(".start").read_text())
    except (OSError, ValueError):
        return 0
    return start if 0 <= start <= size else 0


def _as_error(failure: Failure, attempts: int) -> Exception:
    if failure.kind == "user":
        return UserError(failure.message)
    if failure.kind == "transient":
        return TransientError(f"{failure.message} (tried {attempts} times)")
    return TaskFailedError(failure.message)
