"""A worker in a process of its own: followed to its end, or ended with all its children."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from millrace.errors import MillraceError, explain_os_error
from millrace.runtime.context import Progress
from millrace.runtime.task import Failure, launch

__all__ = ["StoppedError", "cores_allowed", "end_group", "follow", "stop_on_signals", "unexplained"]

_POLL_SECONDS = 0.2
_CGROUP = Path("/sys/fs/cgroup")


class StoppedError(MillraceError):
    """Somebody asked this process to end."""

    exit_code = 128 + signal.SIGTERM


def follow(
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    grace_seconds: float = 10.0,
    report_seconds: float = 30.0,
) -> int:
    """Run a worker on a task directory to its end, with this process's output as its own.

    Whatever ends this function, nothing of the worker's process group is left afterwards.

    Args:
        directory: The task directory, with its task.json.
        environment: Added to that of this process.
        grace_seconds: How long the worker may take to end by itself when it is asked to.
        report_seconds: Between two lines about the progress.

    Returns:
        The exit code as `subprocess` gives it: negative for a signal.
    """
    process = launch(directory, environment, log=False)
    reports = _reports(directory / "progress.json", report_seconds)
    try:
        while True:
            try:
                return process.wait(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                next(reports)
    finally:
        end_group(process, grace_seconds)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `StoppedError` at the first SIGTERM or SIGINT, and take no notice of later ones.

    Raises:
        StoppedError: Wherever the main thread is.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        for each in numbers:  # cleaning up is not to be disturbed
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(f"the task was ended by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_group(process: subprocess.Popen[bytes], grace_seconds: float, at_once: threading.Event | None = None) -> None:
    """Make sure that nothing of a worker's process group is left; `at_once` cuts its time to end by itself short."""
    hurry = at_once or threading.Event()
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while process.poll() is None and time.monotonic() < deadline and not hurry.wait(0.05):
            pass
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def unexplained(code: int, directory: Path) -> Failure:
    """What can be said about a worker that ended without saying why."""
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < 2**20 or (disk.f_files and not disk.f_favail):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        return Failure(kind="disk_full", message=explain_os_error(full))
    if code < 0 or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        name = signal.Signals(-code if code < 0 else code - 128).name
        hint = "; most often the machine ran out of memory" if name == "SIGKILL" else ""
        return Failure(kind="error", message=f"the worker vanished: it was ended by {name}{hint}")
    return Failure(kind="error", message=f"the worker ended with exit code {code} and no explanation")


def cores_allowed() -> int:
    """Whole processor cores that this process may use: by its affinity and by its control group's limit."""
    found = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):  # version 2; `max` is no number
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        found = min(found, int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):  # version 1; -1 is no limit
        quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        found = min(found, int(quota) / int(period)) if int(quota) > 0 else found
    return max(1, int(found))


def _reports(file: Path, seconds: float) -> Iterator[None]:
    """Print how far the task is, no more often than asked and only when it went on."""
    last, due = -1, time.monotonic() + seconds / 3  # the first line comes sooner
    while True:
        yield
        if time.monotonic() < due:
            continue
        with contextlib.suppress(OSError, ValueError):  # there is none yet
            progress = Progress.model_validate_json(file.read_bytes())
            if progress.done != last:
                total = "" if progress.total is None else f" of {progress.total}"
                print(f"progress: {progress.done}{total} {progress.unit} in {progress.seconds:.0f} s", flush=True)
                last, due = progress.done, time.monotonic() + seconds


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
