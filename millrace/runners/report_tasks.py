"""The tasks of a run as a report shows them: one section each, and bars of their times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from millrace.runners.record import PipelineRun, ShareRun, TaskRun, TaskState
from millrace.runners.report_data import Drawing, charts_of
from millrace.runners.report_text import Setting, duration, relative_link, settings
from millrace.runners.worker import last_lines
from millrace.runtime.task import MadeArtifact

__all__ = ["Bar", "Output", "Section", "ShareRow", "Times", "seconds_of", "section", "times"]

_SHARE_ROWS = 200
_SHARE_BARS = 8
_LOG_TAILS = 5
"""What terminals act on and pages can't show."""


@dataclass(frozen=True)
class Output:
    """One output of a task."""

    port: str
    kind: str
    description: str
    path: str
    link: str
    """Empty when the output is not there any more."""
    made: MadeArtifact
    facts: tuple[Setting, ...]


@dataclass(frozen=True)
class ShareRow:
    """One worker of a task."""

    share: ShareRun
    log: str
    """Link to its log; empty when there is none."""
    tail: tuple[str, ...]
    """The end of the log of a failed worker."""


@dataclass(frozen=True)
class Section:
    """All about one task."""

    task: TaskRun
    description: str
    conditions: tuple[str, ...]
    seconds: float | None
    attempts: int
    peak_memory: int
    missing: str
    """What is not there any more."""
    parameters: tuple[Setting, ...]
    metrics: tuple[tuple[str, float, str], ...]
    """Name, value, description."""
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    outputs: tuple[Output, ...]
    shares: tuple[ShareRow, ...]
    share_count: int
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True)
class Bar:
    """A length of time, in percent of the whole chart."""

    left: float
    width: float
    title: str
    state: str


@dataclass(frozen=True)
class Times:
    """The chart of times."""

    ticks: tuple[tuple[float, str], ...]
    """Position in percent and label."""
    rows: tuple[tuple[TaskRun, Bar | None, tuple[Bar, ...], int, str], ...]
    """Task, its bar, bars of its shares, number of shares without a bar, duration."""


def seconds_of(task: TaskRun) -> float | None:
    """How long a task took in this run; None when it did not run here."""
    ran = task.started is not None and task.ended is not None and task.state is not TaskState.CACHED
    return (task.ended - task.started).total_seconds() if ran and task.ended and task.started else None


def section(run: PipelineRun, task: TaskRun, folder: Path) -> Section:
    """Gather what a run's record and its artifacts tell about a task.

    Args:
        run: The run.
        task: One of its tasks.
        folder: The folder of the report; links are relative to it.
    """
    planned = run.pipeline.task(task.name)
    component = run.pipeline.component_of(planned)
    described = {metric.name: metric.description for metric in component.metrics}
    gone = sorted({str(path.name) for path in _folders(task) if not path.is_dir()})
    return Section(
        task=task,
        description=component.description,
        conditions=tuple(str(condition) for condition in planned.conditions),
        seconds=seconds_of(task),
        attempts=max((share.attempts for share in task.shares), default=0),
        peak_memory=max((share.peak_memory for share in task.shares), default=0),
        missing=f"the task folder {', '.join(gone)} was removed" if gone else "",
        parameters=tuple(settings(task.parameters, component.parameters)),
        metrics=tuple((name, value, described.get(name, "")) for name, value in task.metrics.items()),
        inputs=tuple((port, tuple(sources)) for port, sources in task.inputs.items() if sources),
        outputs=tuple(_output(run, task, port, folder) for port in task.outputs),
        shares=tuple(
            _share(share, folder, tail=index < _LOG_TAILS)
            for index, share in enumerate(_worst_first(task.shares)[:_SHARE_ROWS])
        ),
        share_count=len(task.shares),
        drawings=tuple(charts_of(run, task)),
    )


def _folders(task: TaskRun) -> Iterable[Path]:
    ended_well = (share for share in task.shares if share.state.done)
    return filter(None, [task.directory, *(share.directory for share in ended_well)])


def _output(run: PipelineRun, task: TaskRun, port: str, folder: Path) -> Output:
    spec = run.pipeline.component_of(run.pipeline.task(task.name)).output(port)
    made, path = task.outputs[port], task.output_path(port)
    return Output(
        port=port,
        kind=spec.artifact.title.rpartition(".")[2] if spec else "",
        description=spec.description if spec else "",
        path=made.path,
        link=relative_link(path, folder) if path.exists() else "",
        made=made,
        facts=tuple(settings(made.metadata)),
    )


def _worst_first(shares: Iterable[ShareRun]) -> list[ShareRun]:
    return sorted(shares, key=lambda share: (share.state is not TaskState.FAILED, share.index))


def _share(share: ShareRun, folder: Path, *, tail: bool) -> ShareRow:
    if share.directory is None:
        return ShareRow(share, log="", tail=())
    log = share.directory / "log.txt"
    shown = last_lines(log) if tail and share.state is TaskState.FAILED else []
    return ShareRow(
        share,
        log=relative_link(log, folder) if log.is_file() else "",
        tail=tuple(shown),
    )


def times(run: PipelineRun) -> Times:
    """Bars of all tasks, in the order of the pipeline, over the length of the run."""
    moments = [time for task in run.tasks.values() for time in (task.started, task.ended) if time]
    whole = max([1e-3, *((time - run.started).total_seconds() for time in (*moments, *filter(None, [run.ended])))])
    rows = []
    for name in run.pipeline.order():
        task = run.tasks.get(name)
        if task is not None:
            bars, more = _share_bars(task, run.started, whole)
            rows.append((task, _bar(task, run.started, whole), bars, more, duration(seconds_of(task))))
    return Times(ticks=tuple(_ticks(whole)), rows=tuple(rows))


def _bar(task: TaskRun, start: datetime, whole: float) -> Bar | None:
    if task.started is None or not task.shares:
        return None
    seconds = seconds_of(task) or 0.0
    left = (task.started - start).total_seconds()
    title = f"{task.name}: {task.state}, {duration(left)} after the start, {duration(seconds)}"
    return Bar(round(100 * left / whole, 2), round(100 * seconds / whole, 2), title, task.state)


def _share_bars(task: TaskRun, start: datetime, whole: float) -> tuple[tuple[Bar, ...], int]:
    """Bars from each worker's start, as long as it worked."""
    if len(task.shares) < 2 or task.started is None or task.state is TaskState.CACHED:
        return (), 0
    longest = sorted(task.shares, key=lambda share: (-share.seconds, share.index))[:_SHARE_BARS]
    bars = tuple(
        Bar(
            left := round(100 * ((share.started or task.started) - start).total_seconds() / whole, 2),
            0.0 if share.state is TaskState.CACHED else round(min(100 * share.seconds / whole, 100 - left), 2),
            f"share {share.index} of {task.name}: {share.state}, {duration(share.seconds)} of work",
            share.state,
        )
        for share in sorted(longest, key=lambda share: share.index)
    )
    return bars, len(task.shares) - len(bars)


def _ticks(whole: float) -> Iterable[tuple[float, str]]:
    steps = [base * 10**power for power in range(-3, 8) for base in (1, 2, 5)]
    steps = [step for step in steps if step < 30] + [
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
        *(3600 * 2**n for n in range(12)),
    ]
    step = next((step for step in steps if whole / step <= 5), steps[-1])
    for index in range(int(whole / step) + 1):
        yield round(100 * index * step / whole, 2), _tick(index * step)


def _tick(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s" if seconds else "0"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
