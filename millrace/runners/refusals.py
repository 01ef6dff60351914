"""What a run is refused for before its first task starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from millrace.compilers.refusals import check_work
from millrace.errors import ConfigError, DataError, UnsupportedError
from millrace.runners.outside import named_places
from millrace.runtime.earlier import full_id
from millrace.runtime.storage import parse_source
from millrace.specs import ComponentSpec, PipelineSpec, Task
from millrace.specs.earlier import RUN

__all__ = ["check_tasks", "with_full_ids"]

_MOST_TOLD = 3


def with_full_ids(spec: PipelineSpec, root: Path) -> PipelineSpec:
    """The pipeline with whole ids in `run:ID/TASK`: what is cached must not depend on which run is the latest.

    Args:
        spec: The pipeline.
        root: The runner's folder, with earlier runs.

    Raises:
        ConfigError: When there is no such run, with the parameter's path.
    """
    tasks = {}
    for task in _searches_last(spec):
        parameters = task.parameters
        for place in named_places(spec.component_of(task), parameters):
            if (match := RUN.fullmatch(place.value)) and not place.of_choice:
                run = _full_id(f"{task.name}.{place.name}={place.value}", match["id"], match["task"], root)
                parameters = _replaced(parameters, place.name.split("."), f"run:{run}/{match['task']}")
        tasks[task.name] = task.model_copy(update={"parameters": parameters})
    return spec.model_copy(update={"tasks": tuple(tasks[task.name] for task in spec.tasks)})


def _searches_last(spec: PipelineSpec) -> list[Task]:
    """The tasks; trials have the parameters of a training, under whose name a mistake is told first."""
    return sorted(spec.tasks, key=lambda task: "tuning" in spec.component_of(task).delegates)


def _full_id(where: str, name: str, task: str, root: Path) -> str:
    runs = root.absolute() / "runs"
    try:
        found = full_id(runs, name, task)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if found is None:
        known = sorted(path.parent.name for path in runs.glob("*/run.json"))[-_MOST_TOLD:]
        recent = f"the last ones are {', '.join(known)}" if known else "there are none"
        what = f"there is no run that has made {task}" if name == "latest" else "there is no run of that id"
        raise ConfigError(f"{where}: {what} in {runs}; {recent}")
    return found


def _replaced(values: Mapping[str, JsonValue], path: Sequence[str], new: str) -> dict[str, JsonValue]:
    inside = values[path[0]]
    return {**values, path[0]: _replaced(inside, path[1:], new) if isinstance(inside, dict) else new}


def check_tasks(spec: PipelineSpec) -> None:
    """Refuse what would fail when its task starts, which can be hours later.

    Raises:
        UserError: With the parameter's path, or the task's name.
    """
    for task in _searches_last(spec):
        component = spec.component_of(task)
        _check_hosts(task, component)
        if {"training", "tuning"}.intersection(component.delegates):
            check_work(task, component, task.distribution)
        for place in named_places(component, task.parameters):
            _check_there(f"{task.name}.{place.name}={place.value}", place.value)


def _check_there(where: str, value: str) -> None:
    if value.startswith(("arn:", "run:")):
        return
    scheme, path = parse_source(value)
    if scheme == "file" and not Path(path).exists():
        raise DataError(f"{where}: there is nothing at {path}")


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
