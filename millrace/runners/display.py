"""How a run looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState
from millrace.runners.worker import last_lines
from millrace.runtime.context import Progress
from millrace.terminal import STATE_STYLES, Watched, task_table

__all__ = ["Display"]

_METRICS = 4
"""Most of a task on its line: the first ones that it reports."""


_WARNING = re.compile(r"\S+ \S+ WARNING (.*)")
_WARNINGS = 5  # of a task that are shown


class Display(Watched):
    """Shows a run while it goes on, each failure once, when it happens, and the summary at the end."""

    def __init__(self, command: str = "") -> None:
        """Nothing is shown yet.

        Args:
            command: What starts the run once more, for whoever has mended a mistake.
        """
        super().__init__()
        self._command = command
        self._begun = False
        self._seen: dict[str, TaskState] = {}

    def update(self, run: PipelineRun) -> None:
        """Show the run as it is now."""
        if self.live:
            self.draw(lambda: _table(run))
        elif not self._begun:
            self.console.print(f"{run.pipeline.name}: started")
        self._begun = True
        for task in run.tasks.values():
            if task.state is not self._seen.get(task.name, TaskState.PENDING):
                self._seen[task.name] = task.state
                if not self.live and not _not_begun(task):
                    self.console.print(_line(task))
                if task.state is TaskState.FAILED:
                    self._explain(task)

    def close(self, run: PipelineRun) -> None:
        """Show how it went: the metrics, warnings, and after a failure what to do next."""
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
        if never := [task.name for task in run.tasks.values() if _not_begun(task)]:
            self.console.print(f"not started: {', '.join(never)}")
        elapsed = ((run.ended or datetime.now(UTC)) - run.started).total_seconds()
        told = any(task.state is TaskState.FAILED for task in run.tasks.values())
        reason = f": {run.reason}" if run.reason and not told else ""
        self.console.print(f"{run.pipeline.name}: {run.state} in {elapsed:.1f} s{reason}")
        if run.state is not RunState.SUCCEEDED:
            failures = [share.failure for task in run.tasks.values() for share in task.shares if share.failure]
            mend = "mend that, then " if any(failure.kind == "user" for failure in failures) else ""
            again = f": {self._command}" if self._command else ""
            self.console.print(f"next: {mend}run the same command again to go on from here{again}")

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

    def _explain(self, task: TaskRun) -> None:
        """Why a task failed, and where its log is; of one that did not say why itself, the end of that as well."""
        self.console.print(f"\n{task.name} failed: {task.reason}", style="red")
        told = set(task.reason.splitlines())
        for share in task.shares:
            if share.failure is None or share.directory is None:
                continue
            message = share.failure.message
            if not task.reason.endswith(message) and message not in told:
                self.console.print(f"share {share.index}: {message}", style="red")
            told |= {message, *message.splitlines()}
            log = share.directory / "log.txt"
            if share.failure.kind == "error":
                for line in last_lines(log):
                    if line.removeprefix("error: ") not in told:
                        self.console.print(f"  | {line}")
            if log.exists():
                self.console.print(f"log: {log}")
        self.console.print()


def _table(run: PipelineRun) -> Table:
    table = task_table(f"{run.pipeline.name}  {run.id}")
    for task in run.tasks.values():
        table.add_row(task.name, Text(task.state, style=STATE_STYLES[task.state]), _seconds(task), Text(_detail(task)))
    return table


def _not_begun(task: TaskRun) -> bool:
    return task.state is TaskState.CANCELLED and task.started is None


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
    if task.state is TaskState.FAILED:
        return ""  # it is told in full elsewhere
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
