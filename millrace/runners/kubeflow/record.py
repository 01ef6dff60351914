"""The record of a rehearsal: `rehearsal.json`, and what the display shows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace.runners.record import RunState, TaskState
from millrace.runtime.task import write_atomically

__all__ = ["MadeArtifact", "Rehearsal", "TaskRecord"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class MadeArtifact(_Record):
    """An artifact that a task has made."""

    uri: str
    type: str
    path: Path | None = None
    """Our copy of it; none when the task has written nothing there."""
    metadata: dict[str, Any] = Field(default_factory=dict)


class TaskRecord(_Record):
    """One task, or one turn of a loop."""

    name: str
    """Path from the root: `for-loop-1[0]/train`."""
    kind: Literal["container", "importer", "graph", "loop", "volume"] = "container"
    image: str = ""
    state: TaskState = TaskState.PENDING
    reason: str = ""
    attempts: int = 0
    started: datetime | None = None
    seconds: float = 0.0
    log: Path | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Output parameters."""
    artifacts: dict[str, list[MadeArtifact]] = Field(default_factory=dict)


class Rehearsal(_Record):
    """One execution of a document."""

    id: str
    pipeline: str
    state: RunState = RunState.RUNNING
    reason: str = ""
    started: datetime
    ended: datetime | None = None
    millrace: str
    document: Path
    """A copy of what was rehearsed."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Of the pipeline."""
    pipeline_root: str = ""
    notes: list[str] = Field(default_factory=list)
    """What was not rehearsed as the cluster would do it."""
    tasks: dict[str, TaskRecord] = Field(default_factory=dict)
    outputs: dict[str, Any] = Field(default_factory=dict)
    """Parameters and artifacts' URIs that the pipeline returns."""

    def write(self, directory: Path) -> None:
        """Write `rehearsal.json`, seen whole or not at all."""
        write_atomically(directory / "rehearsal.json", self.model_dump_json(indent=2))
