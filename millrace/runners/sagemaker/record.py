"""The record of a rehearsal: `rehearsal.json`, and what the display shows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from millrace.runners.record import RunState, TaskState
from millrace.runtime.task import write_atomically

__all__ = ["Rehearsal", "StepRecord", "TrialRecord"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TrialRecord(_Record):
    """One training job of a tuning job."""

    name: str
    state: TaskState = TaskState.RUNNING
    reason: str = ""
    hyperparameters: dict[str, str] = Field(default_factory=dict)
    """That were searched."""
    objective: float | None = None
    seconds: float = 0.0
    logs: list[Path] = Field(default_factory=list)


class StepRecord(_Record):
    """One step."""

    name: str
    type: str
    state: TaskState = TaskState.PENDING
    reason: str = ""
    started: datetime | None = None
    seconds: float = 0.0
    job: str = ""
    """Name of its job, model or endpoint."""
    hosts: int = 0
    """Containers of its job."""
    logs: list[Path] = Field(default_factory=list)
    """One for each host."""
    metrics: dict[str, float] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    """Places of outputs by name; what a condition decided; an endpoint's address."""
    trials: list[TrialRecord] = Field(default_factory=list)
    properties: dict[str, Any] = Field(default_factory=dict)
    """What other steps can refer to, shaped as the service describes it."""


class Rehearsal(_Record):
    """One execution of a definition."""

    id: str
    pipeline: str
    execution: str
    """Its `PipelineExecutionId`."""
    state: RunState = RunState.RUNNING
    reason: str = ""
    started: datetime
    ended: datetime | None = None
    millrace: str
    document: Path
    """A copy of what was rehearsed."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    """What was not rehearsed as the service would do it."""
    steps: dict[str, StepRecord] = Field(default_factory=dict)
    endpoints: dict[str, str] = Field(default_factory=dict)
    """Addresses that took requests while the rehearsal went on, by the endpoints' names."""

    def write(self, directory: Path) -> None:
        """Write `rehearsal.json`, seen whole or not at all."""
        write_atomically(directory / "rehearsal.json", self.model_dump_json(indent=2, fallback=str))
