"""TensorBoard's event files where SageMaker stores them, while a training runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["copied_while_it_runs"]


@contextlib.contextmanager
def copied_while_it_runs(task: Path, port: str | None, target: Path, *, every_seconds: float = 20.0) -> Iterator[None]:
    """Copy what the worker of a task directory writes for an output, again and again and once more at the end.

    Event files only grow: a copy of a part of one is a whole one of less.

    Args:
        task: The task directory.
        port: The output; None copies nothing.
        target: Where to.
        every_seconds: Between two copies.
    """
    if port is None:
        yield
        return
    done = threading.Event()

    def copy() -> None:
        while not done.wait(every_seconds):
            _copy(task, port, target)

    thread = threading.Thread(target=copy, name="events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _copy(task, port, target)


def _copy(task: Path, port: str, target: Path) -> None:
    with contextlib.suppress(OSError):  # pictures of a run are not worth the run
        found = [folder for name in ("outputs", "partial") if (folder := task / name / port).is_dir()]
        if not found:
            return
        source = found[0]
        for walked, _, names in os.walk(source):
            inner = target / Path(walked).relative_to(source)
            inner.mkdir(parents=True, exist_ok=True)
            for name in names:
                if not _same_size(Path(walked, name), inner / name):
                    shutil.copyfile(Path(walked, name), inner / name)


def _same_size(one: Path, other: Path) -> bool:
    return other.exists() and one.stat().st_size == other.stat().st_size
