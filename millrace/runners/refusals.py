"""What a run is refused for before its first task starts."""

from __future__ import annotations

from pathlib import Path

from millrace.compilers.refusals import check_work, locations
from millrace.errors import ConfigError, DataError, UnsupportedError
from millrace.runtime.storage import parse_source
from millrace.specs import ComponentSpec, PipelineSpec, Task

__all__ = ["check_tasks"]

_MOST_TOLD = 3


def check_tasks(spec: PipelineSpec, root: Path) -> None:
    """Refuse what would fail when its task starts, which can be hours later.

    Args:
        spec: The pipeline.
        root: The runner's folder, with earlier runs.

    Raises:
        UserError: With the parameter's path, or the task's name.
    """
    for task in spec.tasks:
        component = spec.component_of(task)
        _check_hosts(task, component)
        if "training" in component.delegates:
            check_work(task, component, task.distribution)
        for name, value in locations(component, task.parameters):
            _check_there(f"{task.name}.{name}={value}", value, root)


def _check_there(where: str, value: str, root: Path) -> None:
    if value.startswith("arn:"):
        return
    if value.startswith("run:"):
        _check_run(where, value.removeprefix("run:").partition("/")[0], root)
        return
    scheme, path = parse_source(value)
    if scheme == "file" and not Path(path).exists():
        raise DataError(f"{where}: there is nothing at {path}")


def _check_run(where: str, run: str, root: Path) -> None:
    runs = root.absolute() / "runs"
    if not (runs / run / "run.json").is_file():
        known = sorted(path.parent.name for path in runs.glob("*/run.json"))[-_MOST_TOLD:]
        recent = f"the last ones are {', '.join(known)}" if known else "there are none"
        raise ConfigError(f"{where}: there is no run of that id in {runs}; {recent}")


def _check_hosts(task: Task, component: ComponentSpec) -> None:
    asked = task.distribution
    if asked.hosts > 1:
        raise UnsupportedError(
            f"task {task.name!r} asks for {asked.hosts} hosts with {asked.processes} processes each; the local runner "
            "has this machine alone: use hosts=1 here; processes may be more"
        )
    if asked.processes > 1 and "training" not in component.delegates:
        raise UnsupportedError(
            f"task {task.name!r} asks for {asked.processes} processes, which {component.name} does not start: use "
            "processes=1"
        )
