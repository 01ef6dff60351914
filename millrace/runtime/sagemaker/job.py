"""What processing and training jobs have in common: a worker that is followed, and a reason when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from millrace.errors import MillraceError, TaskFailedError, UserError, explain_os_error
from millrace.runtime.container import home, reason, work_folder
from millrace.runtime.process import follow, stop_on_signals
from millrace.runtime.task import TaskRequest, TaskResult, read_result

__all__ = ["LONGEST", "Job", "pairs", "run_job", "tell"]

LONGEST = 1024
"""Bytes of a text that SageMaker keeps."""


class Job(NamedTuple):
    """A job in its container."""

    base: Path
    """/opt/ml."""
    directory: Path
    """A private folder."""
    reasons: tuple[Path, ...]
    """Files from which SageMaker takes why a job failed."""

    def work(
        self, request: TaskRequest, environment: Mapping[str, str] | None = None, *, grace_seconds: float = 10.0
    ) -> TaskResult | int:
        """Run the worker of a request in `task`: its result, or the exit code of its failure, whose reason is told."""
        request.write(self.task)
        environment = {**home(self.directory), **(environment or {})}
        code = follow(self.task, environment, grace_seconds=grace_seconds)
        result = read_result(self.task)
        if code == 0 and result is not None:
            return result
        self.tell(reason(self.task, code))
        return code if code > 0 else 1

    @property
    def task(self) -> Path:
        """The task directory."""
        return self.directory / "task"

    def tell(self, message: str) -> None:
        """Leave the reason of a failure for SageMaker."""
        for file in self.reasons:
            tell(file, message)


def run_job(base: Path, reasons: Iterable[str], do: Callable[[Job], int]) -> int:
    """Do a job in a private folder, and write why it failed where SageMaker looks for it.

    Args:
        base: /opt/ml.
        reasons: Files for that, below `base`.
        do: What it returns is the exit code.

    Raises:
        MillraceError: When something is wrong before or after the component's own work.
    """
    files = tuple(base / name for name in reasons)
    job = Job(base, Path(), files)
    for file in files:  # of an attempt before
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
    try:
        with stop_on_signals(), work_folder() as directory:
            return do(job._replace(directory=directory))
    except OSError as error:
        failure = TaskFailedError(explain_os_error(error))
        job.tell(str(failure))
        raise failure from error
    except MillraceError as error:
        job.tell(str(error))
        raise


def tell(file: Path, message: str) -> None:
    """Leave a text for SageMaker, as far as that is possible."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(message.encode()[:LONGEST].decode(errors="ignore"), encoding="utf-8")


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` words as a dictionary.

    Raises:
        UserError: When one is not of that form.
    """
    found: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not (name and separator):
            raise UserError(f"{option}: {word!r} is not of the form NAME=VALUE")
        found[name] = value
    return found
