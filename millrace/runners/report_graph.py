"""The picture of a pipeline's graph: boxes with the states of tasks, lines with what flows."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.runners.record import PipelineRun, TaskRun, TaskState
from millrace.runners.report_layout import Size, lay_out
from millrace.runners.report_tasks import seconds_of
from millrace.runners.report_text import duration, number, shorten
from millrace.specs import Task

__all__ = ["Box", "Line", "Picture", "picture"]

_LETTERS = 22
"""Longest name in a box; the whole one is in its tooltip."""
_CONDITION_LETTERS = 30


@dataclass(frozen=True)
class Box:
    """One task. Positions are those of the box's top left corner, in pixels."""

    name: str
    label: str
    shares: str
    """How many, after a multiplication sign; empty for a task that is not spread."""
    detail: str
    condition: str
    state: str
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """All that one task gives another."""

    source: str
    target: str
    kind: str
    """data, condition or order."""
    title: str
    path: str


@dataclass(frozen=True)
class Picture:
    """The graph."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def picture(run: PipelineRun) -> Picture:
    """Draw the graph of a run."""
    tasks = {task.name: task for task in run.pipeline.tasks}
    sizes = {name: _size(task, _detail(_record(run, task))) for name, task in tasks.items()}
    layout = lay_out({name: task.upstream() for name, task in tasks.items()}, sizes)
    boxes = []
    for name, task in tasks.items():
        centre, size = layout.centres[name], sizes[name]
        x, y = round(centre.x - size.width / 2, 1), round(centre.y - size.height / 2, 1)
        boxes.append(_box(run, task, x, y, size))
    lines = [
        Line(source, target, _kind(tasks[target], source), _flow(run, tasks[target], source), path)
        for (source, target), path in layout.paths.items()
    ]
    return Picture(layout.size.width, layout.size.height, tuple(boxes), tuple(lines))


def _size(task: Task, detail: str) -> Size:
    letters = min(len(task.name), _LETTERS) + (len(_shares(task)) + 1 if task.for_each else 0)
    condition = min(len(_short(task)), _CONDITION_LETTERS)
    width = 28 + max(letters * 8.4, len(detail) * 6.8, condition * 6.4)
    return Size(round(max(128.0, width), 1), 60.0 if task.conditions else 44.0)


def _shares(task: Task) -> str:
    return f"\N{MULTIPLICATION SIGN}{task.for_each.shares}" if task.for_each else ""


def _short(task: Task) -> str:
    more = f" and {len(task.conditions) - 1} more" if len(task.conditions) > 1 else ""
    return next((f"if {item.metric.port} {item.comparison} {item.threshold:g}{more}" for item in task.conditions), "")


def _box(run: PipelineRun, task: Task, x: float, y: float, size: Size) -> Box:
    record = _record(run, task)
    notes = [f"{task.name}: {record.state}", *(_judged(run, condition) for condition in _conditions(task))]
    return Box(
        name=task.name,
        label=shorten(task.name, _LETTERS),
        shares=_shares(task),
        detail=_detail(record),
        condition=shorten(_short(task), _CONDITION_LETTERS),
        state=record.state,
        title="\n".join([*notes, *filter(None, [record.reason])]),
        x=x,
        y=y,
        width=size.width,
        height=size.height,
    )


def _record(run: PipelineRun, task: Task) -> TaskRun:
    return run.tasks.get(task.name) or TaskRun(name=task.name, component=task.component, component_version="")


def _detail(record: TaskRun) -> str:
    took = duration(seconds_of(record))
    shown = took and record.state is not TaskState.SKIPPED
    return f"{record.state} \N{MIDDLE DOT} {took}" if shown else record.state


def _conditions(task: Task) -> list[tuple[str, str, str]]:
    return [(condition.metric.task, condition.metric.port, str(condition)) for condition in task.conditions]


def _judged(run: PipelineRun, condition: tuple[str, str, str]) -> str:
    name, metric, text = condition
    record = run.tasks.get(name)
    if record is None or metric not in record.metrics:
        return f"only if {text}"
    return f"only if {text} (it is {number(record.metrics[metric])})"


def _kind(task: Task, source: str) -> str:
    if any(output.task == source for outputs in task.inputs.values() for output in outputs):
        return "data"
    return "condition" if any(condition.metric.task == source for condition in task.conditions) else "order"


def _flow(run: PipelineRun, task: Task, source: str) -> str:
    """What flows along a line: `train.model -> quantize.model`, a line each."""
    arrow = "\N{RIGHTWARDS ARROW}"
    flows = [
        f"{output} {arrow} {task.name}.{port}"
        for port, outputs in task.inputs.items()
        for output in outputs
        if output.task == source
    ]
    flows += [_judged(run, condition) for condition in _conditions(task) if condition[0] == source]
    return "\n".join(flows) or f"{source}, then {task.name}"
