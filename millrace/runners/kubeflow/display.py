"""How a rehearsal looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from millrace.runners.kubeflow.record import Rehearsal, TaskRecord
from millrace.runners.record import TaskState
from millrace.runners.worker import last_lines
from millrace.terminal import STATE_STYLES, Watched, task_table

__all__ = ["Display"]


class Display(Watched):
    """Shows a rehearsal while it goes on, and its summary at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, TaskState] | None = None

    def update(self, record: Rehearsal) -> None:
        """Show the rehearsal as it is now; first of all, what it does otherwise than a cluster."""
        if self._seen is None:
            self._seen = {}
            for note in record.notes:
                self.console.print(f"note: {note}")
        if self.live:
            self.draw(lambda: _table(record))
            return
        for task in list(record.tasks.values()):
            if task.state is not self._seen.get(task.name, TaskState.PENDING):
                self._seen[task.name] = task.state
                if task.kind == "container" or task.state.final:
                    self.console.print(_line(task))

    def close(self, record: Rehearsal) -> None:
        """Show how it went: failures with the ends of their logs, metrics, outputs and where all is."""
        for task in record.tasks.values():
            if _is_explained(task):
                self._explain(task)
        for line in _results(record):
            self.console.print(line)
        seconds = ((record.ended or datetime.now(UTC)) - record.started).total_seconds()
        told = any(map(_is_explained, record.tasks.values()))
        reason = f": {record.reason}" if record.reason and not told else ""
        self.console.print(f"{record.pipeline}: {record.state} in {seconds:.1f} s{reason}")

    def _explain(self, task: TaskRecord) -> None:
        self.console.print(f"\n{task.name} failed: {task.reason}", style="red")
        if task.log is not None:
            self.console.print(f"the end of {task.log}:")
            for line in last_lines(task.log):
                self.console.print(f"  | {line}")


def _is_explained(task: TaskRecord) -> bool:
    """Whether it is told at the end why it failed, and so nowhere else."""
    return task.state is TaskState.FAILED and task.kind in ("container", "importer", "volume")


def _results(record: Rehearsal) -> Iterator[str]:
    for task in record.tasks.values():
        for made in (item for items in task.artifacts.values() for item in items):
            if made.type == "system.Metrics":
                for name, value in sorted(made.metadata.items()):
                    if isinstance(value, int | float):
                        yield f"  {task.name + '.' + name:<40} {value:.6g}"
    for name, value in record.outputs.items():
        yield f"  output {name} = {value}"


def _table(record: Rehearsal) -> Table:
    table = task_table(f"{record.pipeline}  {record.id}", "tries")
    for task in list(record.tasks.values()):  # drawn by another thread than the one that adds them
        table.add_row(
            task.name,
            Text(task.state, style=STATE_STYLES[task.state]),
            str(task.attempts) if task.attempts > 1 else "",
            _seconds(task),
            Text(_detail(task)),
        )
    return table


def _line(task: TaskRecord) -> str:
    tries = f"{task.attempts} tries" if task.attempts > 1 and task.state.final else ""
    seconds = _seconds(task) if task.state.final else ""
    return "  ".join(word for word in (f"{task.name:<24}", task.state, seconds, tries, _detail(task)) if word)


def _seconds(task: TaskRecord) -> str:
    if task.started is None or task.state is TaskState.PENDING:
        return ""
    running = task.state is TaskState.RUNNING
    seconds = (datetime.now(UTC) - task.started).total_seconds() if running else task.seconds
    return f"{seconds:.1f} s"


def _detail(task: TaskRecord) -> str:
    if task.reason and not _is_explained(task):
        return task.reason.splitlines()[0]
    numbers = {name: value for name, value in task.parameters.items() if isinstance(value, int | float)}
    return "  ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:3])
