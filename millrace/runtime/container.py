"""What every kind of container needs around a worker: a private folder, a home, and a reason when it failed."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from millrace.runtime.process import unexplained
from millrace.runtime.task import read_failure

__all__ = ["home", "reason", "work_folder"]


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A private folder that goes away with everything in it."""
    with tempfile.TemporaryDirectory(prefix="millrace-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def home(directory: Path) -> dict[str, str]:
    """A home for libraries that want one: with an arbitrary user there is none, or it can't be written to."""
    found = os.environ.get("HOME", "")
    return {} if found and os.access(found, os.W_OK) else {"HOME": str(directory)}


def reason(task: Path, code: int) -> str:
    """Why the worker of a task directory failed; it is printed here where the worker could not."""
    failure = read_failure(task)
    if failure is None:
        failure = unexplained(code, task)
        print(f"error: {failure.message}", file=sys.stderr, flush=True)
    return failure.message
