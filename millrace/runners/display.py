"""How a run looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from rich.table import Table
from rich.text import Text

from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState
from millrace.runners.worker import last_lines
from millrace.runtime.context import Progress
from millrace.specs import PipelineSpec
from millrace.terminal import STATE_STYLES, Watched, task_table

__all__ = ["Display"]

_METRICS = 4
"""Most of a task on its line: the first ones that it reports."""


_WARNING = re.compile(r"\S+ \S+ WARNING (.*)")
_WARNINGS = 5  # of a task that are shown


class Display(Watched):
    """Shows a run while it goes on, and its summary at the end."""

    def __init__(self, spec: PipelineSpec) -> None:
        super().__init__()
        self._seen: dict[str, TaskState] = {}
        self._name = spec.name

    def __enter__(self) -> Self:
        if not self.live:
            self.console.print(f"{self._name}: started")
        return super().__enter__()

    def update(self, run: PipelineRun) -> None:
        """Show the run as it is now."""
        if self.live:
            self.draw(lambda: _table(run))
            return
        for task in run.tasks.values():
            if task.state is not self._seen.get(task.name, TaskState.PENDING):
                self._seen[task.name] = task.state
                self.console.print(_line(task))

    def close(self, run: PipelineRun) -> None:
        """Show how it went: failures with the last lines of their logs, or the metrics."""
        for task in run.tasks.values():
            for share in task.shares:
                if share.failure is not None:
                    self._explain(task, share)
        numbers = {
            f"{task.name}.{metric.name}": task.metrics[metric.name]
            for task in run.tasks.values()
            for metric in run.pipeline.component_of(run.pipeline.task(task.name)).metrics
            if metric.name in task.metrics
        }
        if run.state is RunState.SUCCEEDED:
            for name, value in numbers.items():
                self.console.print(f"  {name:<28} {_number(value, 6)}")
        for task in run.tasks.values():
            self._warn(task)
        for task in run.tasks.values():
            self._tell_running(task)
        elapsed = ((run.ended or datetime.now(UTC)) - run.started).total_seconds()
        reason = f": {run.reason}" if run.reason else ""
        self.console.print(f"{run.pipeline.name}: {run.state} in {elapsed:.1f} s{reason}")
        if run.state is not RunState.SUCCEEDED:
            failures = [share.failure for task in run.tasks.values() for share in task.shares if share.failure]
            mend = "mend that, then " if any(failure.kind == "user" for failure in failures) else ""
            self.console.print(f"{mend}run the same command again to go on from here")

    def _warn(self, task: TaskRun) -> None:
        """The first warnings of a task that ran; all are in its log."""
        if task.state is not TaskState.SUCCEEDED:
            return
        logs = [share.directory / "log.txt" for share in task.shares if share.directory is not None]
        told = [(log, found[1]) for log in logs for line in last_lines(log, 1000) if (found := _WARNING.match(line))]
        for _, text in told[:_WARNINGS]:
            self.console.print(f"{task.name} warns: {text}", style="yellow")
        if len(told) > _WARNINGS:
            self.console.print(f"{task.name}: {len(told) - _WARNINGS} more warnings: {told[_WARNINGS][0]}")

    def _tell_running(self, task: TaskRun) -> None:
        for made in task.outputs.values():
            if task.directory and made.metadata.get("running"):
                told = f"{task.name} keeps running: {made.metadata.get('url')}; how to stop it:"
                self.console.print(f"{told} {task.directory / 'log.txt'}")

    def _explain(self, task: TaskRun, share: ShareRun) -> None:
        log = (share.directory or Path()) / "log.txt"
        self.console.print(f"\n{task.name} failed; the end of {log}:", style="red")
        for line in last_lines(log):
            self.console.print(f"  | {line}")


def _table(run: PipelineRun) -> Table:
    table = task_table(f"{run.pipeline.name}  {run.id}")
    for task in run.tasks.values():
        table.add_row(task.name, Text(task.state, style=STATE_STYLES[task.state]), _seconds(task), Text(_detail(task)))
    return table


def _line(task: TaskRun) -> str:
    return "  ".join(item for item in (f"{task.name:<12}", task.state, _seconds(task), _detail(task)) if item)


def _seconds(task: TaskRun) -> str:
    if task.started is None or task.state is TaskState.CACHED:
        return ""
    if task.ended is None and not sys.stdout.isatty():  # a plain line says that it has started
        return ""
    seconds = ((task.ended or datetime.now(UTC)) - task.started).total_seconds()
    return f"{seconds:.1f} s"


def _detail(task: TaskRun) -> str:
    if task.reason:
        return task.reason
    if task.state is TaskState.RUNNING:
        reports = [text for share in task.shares if (text := _progress(share))]
        return " | ".join(reports)
    return "  ".join(f"{name} {_number(value, 4)}" for name, value in list(task.metrics.items())[:_METRICS])


def _number(value: float, digits: int) -> str:
    """Counts as they are, whatever their size; other numbers to some digits."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"


def _progress(share: ShareRun) -> str:
    if share.directory is None or share.state is not TaskState.RUNNING:
        return ""
    try:
        report = Progress.model_validate_json((share.directory / "progress.json").read_bytes())
    except (OSError, ValueError):
        return ""
    if not report.total:
        return f"{report.done:,} {report.unit}"
    left = report.seconds / report.done * (report.total - report.done) if report.done else 0.0
    estimate = f", about {left:.0f} s left" if left >= 1 else ""
    return f"{report.done:,} of {report.total:,} {report.unit}{estimate}"
