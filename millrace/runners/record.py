"""The record of one execution: `run.json`, the same facts that the report shows."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from millrace.runtime.task import Failure, MadeArtifact, write_atomically
from millrace.specs import PipelineSpec

__all__ = ["PipelineRun", "RunState", "ShareRun", "TaskRun", "TaskState", "going_on"]

_LOCK = ".lock"


class TaskState(StrEnum):
    """Where a task is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def done(self) -> bool:
        """Whether its outputs are there to be used."""
        return self in (TaskState.SUCCEEDED, TaskState.CACHED)

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it in this run."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)


class RunState(StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its process was killed, so that nobody wrote how it ended."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)


class ShareRun(_Record):
    """One worker of a task."""

    index: int = 0
    state: TaskState = TaskState.PENDING
    key: str = ""
    """SHA-256 of all that decides on its outputs."""
    directory: Path | None = None
    """Its task directory, with the log and the outputs."""
    attempts: int = 0
    started: datetime | None = None
    """When its worker was started in this run."""
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes."""
    failure: Failure | None = None


class TaskRun(_Record):
    """One task of a run."""

    name: str
    component: str
    component_version: str
    state: TaskState = TaskState.PENDING
    reason: str = ""
    """Why it was skipped, failed or cancelled."""
    started: datetime | None = None
    ended: datetime | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, list[str]] = Field(default_factory=dict)
    """Producers (`task.port`) by input port."""
    directory: Path | None = None
    """The task directory that holds the outputs."""
    outputs: dict[str, MadeArtifact] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    shares: list[ShareRun] = Field(default_factory=list)

    def output_path(self, port: str) -> Path:
        """Where an output of this task is."""
        if self.directory is None:
            raise KeyError(f"task {self.name!r} has no outputs yet")
        return self.directory / self.outputs[port].path


class PipelineRun(_Record):
    """One execution of a pipeline."""

    id: str
    pipeline: PipelineSpec
    state: RunState = RunState.RUNNING
    reason: str = ""
    started: datetime
    ended: datetime | None = None
    millrace: str
    """Version of Millrace."""
    revision: str = ""
    """Git revision of the folder the run was started in, with `+changes` when it had some."""
    python: str = ""
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """The validated configuration of the pipeline."""
    tasks: dict[str, TaskRun] = Field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write `run.json`, seen whole or not at all."""
        write_atomically(directory / "run.json", self.model_dump_json(indent=2))

    @classmethod
    def read(cls, directory: Path) -> PipelineRun:
        """Read what `write` wrote; a run that goes on no more, though nobody wrote so, is interrupted."""
        lives = _lives(directory)  # before the record is read: who ends it writes that first
        run = cls.model_validate_json((directory / "run.json").read_bytes())
        if run.state is RunState.RUNNING and not lives:
            run.state, run.reason = RunState.INTERRUPTED, "its process was killed"
            for task in run.tasks.values():
                if not task.state.final:
                    task.state, task.reason = TaskState.CANCELLED, "the run was interrupted"
        return run


@contextmanager
def going_on(directory: Path) -> Iterator[None]:
    """Show that a run's process lives: by a lock, which the system takes away from a process that is killed."""
    path = directory / _LOCK
    with path.open("wb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        path.unlink(missing_ok=True)


def _lives(directory: Path) -> bool:
    try:
        with (directory / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
