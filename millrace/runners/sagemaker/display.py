"""How a rehearsal looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from millrace.runners.record import TaskState
from millrace.runners.sagemaker.record import Rehearsal, StepRecord, TrialRecord
from millrace.runners.worker import last_lines
from millrace.terminal import STATE_STYLES, Watched, task_table

__all__ = ["Display"]


class Display(Watched):
    """Shows a rehearsal while it goes on, and its summary at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, TaskState] = {}
        self._told: set[str] = set()

    def update(self, record: Rehearsal) -> None:
        """Show the rehearsal as it is now; first of all, what it does otherwise than the service."""
        self._tell([f"note: {note}" for note in record.notes])
        if self.live:
            self.draw(lambda: _table(record))
        else:
            for step in list(record.steps.values()):
                for trial in step.trials:
                    self._show(trial.name, trial.state, _trial_line(trial))
                self._show(step.name, step.state, _line(step))
        self._tell([_where(name, address) for name, address in record.endpoints.items()])

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                self.console.print(line)

    def _show(self, name: str, state: TaskState, line: str) -> None:
        if state is not self._seen.get(name, TaskState.PENDING):
            self._seen[name] = state
            self.console.print(line)

    def close(self, record: Rehearsal) -> None:
        """Show how it went: failures with the ends of their logs, metrics, and where all is."""
        entries: list[StepRecord | TrialRecord] = []
        for step in record.steps.values():
            entries += [step, *step.trials]
        explained = [one for one in entries if _is_explained(one)]
        for one in explained:
            self._explain(one.name, one.reason, one.logs)
        for line in _results(record):
            self.console.print(line)
        seconds = ((record.ended or datetime.now(UTC)) - record.started).total_seconds()
        reason = f": {record.reason}" if record.reason and not explained else ""
        self.console.print(f"{record.pipeline}: {record.state} in {seconds:.1f} s{reason}")

    def _explain(self, name: str, reason: str, logs: list[Path]) -> None:
        self.console.print(f"\n{name} failed: {reason}", style="red")
        for log in logs:
            lines = last_lines(log)
            if lines:
                self.console.print(f"the end of {log}:")
            for line in lines:
                self.console.print(f"  | {line}")


def _is_explained(one: StepRecord | TrialRecord) -> bool:
    """Whether it is told at the end why it failed, and so nowhere else."""
    return one.state is TaskState.FAILED and not (isinstance(one, StepRecord) and one.type == "Fail")


def _where(name: str, address: str) -> str:
    return f"endpoint {name} answers: curl --data-binary @FILE -H 'Content-Type: TYPE' {address}"


def _results(record: Rehearsal) -> Iterator[str]:
    for step in record.steps.values():
        for name, value in sorted(step.metrics.items()):
            yield f"  {step.name + '.' + name:<40} {value:.6g}"
        if step.type == "Tuning":
            for name, text in step.outputs.items():
                yield f"  {step.name + ': ' + name:<40} {text}"


def _table(record: Rehearsal) -> Table:
    table = task_table(f"{record.pipeline}  {record.id}", "type", "hosts")
    for step in list(record.steps.values()):  # drawn by another thread than the one that adds them
        table.add_row(
            step.name,
            Text(step.state, style=STATE_STYLES[step.state]),
            step.type,
            str(step.hosts) if step.hosts else "",
            _seconds(step),
            Text(_detail(step)),
        )
        for number, trial in enumerate(step.trials, start=1):
            seconds = f"{trial.seconds:.1f} s" if trial.seconds else ""
            state = Text(trial.state, style=STATE_STYLES[trial.state])
            table.add_row(f"  {number}", state, "", "", seconds, Text(_trial_detail(trial)))
    return table


def _line(step: StepRecord) -> str:
    hosts = f"{step.hosts} hosts" if step.hosts > 1 else ""
    seconds = _seconds(step) if step.state.final else ""
    words = (f"{step.name:<24}", step.type, step.state, hosts, seconds, _detail(step))
    return "  ".join(word for word in words if word)


def _trial_line(trial: TrialRecord) -> str:
    seconds = f"{trial.seconds:.1f} s" if trial.state.final else ""
    return "  ".join(word for word in (f"  {trial.name:<32}", trial.state, seconds, _trial_detail(trial)) if word)


def _trial_detail(trial: TrialRecord) -> str:
    objective = "" if trial.objective is None else f"objective {trial.objective:.6g}"
    values = " ".join(f"{name}={value}" for name, value in trial.hyperparameters.items())
    reason = "" if _is_explained(trial) else trial.reason.partition("\n")[0]
    return "  ".join(word for word in (objective, values, reason) if word)


def _seconds(step: StepRecord) -> str:
    if step.started is None or step.state is TaskState.PENDING:
        return ""
    running = step.state is TaskState.RUNNING
    seconds = (datetime.now(UTC) - step.started).total_seconds() if running else step.seconds
    return f"{seconds:.1f} s"


def _detail(step: StepRecord) -> str:
    if step.reason and not _is_explained(step):
        return step.reason.splitlines()[0]
    if step.type == "Condition" and "Outcome" in step.outputs:
        return f"it {'holds' if step.outputs['Outcome'] == 'True' else 'does not hold'}"
    return "  ".join(f"{name} {value:.4g}" for name, value in list(step.metrics.items())[:3])
