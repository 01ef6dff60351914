"""One rehearsal that goes on: what all its tasks share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from millrace.compilers.kubeflow.view import View
from millrace.runners.engine import Engine
from millrace.runners.kubeflow.inputs import Identity, Task
from millrace.runners.kubeflow.pods import Vault
from millrace.runners.kubeflow.record import Rehearsal, TaskRecord
from millrace.runners.record import TaskState
from millrace.runners.store import Store
from millrace.targets.kubeflow import BackendVersion

__all__ = ["Run"]


@dataclass
class Run:
    """A rehearsal."""

    view: View
    identity: Identity
    root: str
    """URI below which this run's artifacts are."""
    directory: Path
    engine: Engine
    store: Store
    compat: BackendVersion
    record: Rehearsal
    parallel: int
    slots: asyncio.Semaphore
    """One for each container that may run at the same time."""
    cache: Path
    """Folder with results of earlier rehearsals."""
    reuses: bool
    secrets: Vault
    config_maps: Vault
    watch: Callable[[Rehearsal], None] = lambda record: None

    def task(self, name: str, component: str) -> Task:
        """A task of a graph of the document."""
        spec = self.view.components[component]["dag"]["tasks"][name]
        label = spec["componentRef"]["name"]
        return Task(name, spec, self.view.components[label], label)

    def begin(self, name: str, kind: str) -> TaskRecord:
        """The record of a task that may start now; a container waits for its turn."""
        state = TaskState.PENDING if kind == "container" else TaskState.RUNNING
        entry = TaskRecord.model_validate({"name": name, "kind": kind, "state": state, "started": datetime.now(UTC)})
        self.record.tasks[name] = entry
        self.changed()
        return entry

    def end(self, entry: TaskRecord, state: TaskState, reason: str = "") -> None:
        """Note how a task ended."""
        entry.state, entry.reason = state, reason
        if entry.started is not None:
            entry.seconds = round((datetime.now(UTC) - entry.started).total_seconds(), 3)
        self.changed()

    def changed(self) -> None:
        """Show the record as it is now."""
        self.watch(self.record)

    def folder(self, name: str) -> Path:
        """The folder of a task, by its path from the root."""
        return self.directory / "tasks" / name.replace("[", ".").replace("]", "")
