"""Which tasks stand under which conditions, as a tree: a target's groups hold their tasks and lend them to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from millrace.errors import UnsupportedError
from millrace.specs import Condition, PipelineSpec, Task

__all__ = ["Group", "conditions_of", "group_tasks"]

_Path = tuple[Condition, ...]


@dataclass
class Group:
    """Tasks under the same conditions, in an order that has producers first, and groups under one more."""

    tasks: list[Task] = field(default_factory=list)
    groups: dict[str, tuple[Condition, Group]] = field(default_factory=dict)


def group_tasks(spec: PipelineSpec) -> Group:
    """The tree of a pipeline's tasks.

    A task that depends on a conditional one is skipped with it, so it goes below the same conditions.

    Raises:
        UnsupportedError: For a task that depends on tasks under conditions of which neither implies the other.
    """
    root = Group()
    for name, path in conditions_of(spec).items():
        group = root
        for condition in path:
            group = group.groups.setdefault(condition.model_dump_json(), (condition, Group()))[1]
        group.tasks.append(spec.task(name))
    return root


def conditions_of(spec: PipelineSpec) -> dict[str, tuple[Condition, ...]]:
    """All conditions of each task, inherited ones first; tasks in an order that has producers first.

    Raises:
        UnsupportedError: For a task that depends on tasks under conditions of which neither implies the other.
    """
    found: dict[str, _Path] = {}
    for name in spec.order():
        found[name] = _path(spec.task(name), found)
    return found


def _path(task: Task, found: Mapping[str, _Path]) -> _Path:
    """All conditions of a task, those of what it depends on first."""
    inherited: _Path = ()
    chosen = ""
    for name in sorted(task.upstream()):
        longer, shorter = sorted((inherited, found[name]), key=len, reverse=True)
        if longer[: len(shorter)] != shorter:
            raise UnsupportedError(
                f"tasks.{task.name}: it depends on {chosen!r}, which runs when {_told(inherited)}, and on {name!r}, "
                f"which runs when {_told(found[name])}: no target joins tasks of different conditions. Put one of the "
                "`when` blocks into the other"
            )
        if longer is not inherited:
            inherited, chosen = longer, name
    return (*inherited, *(condition for condition in task.conditions if condition not in inherited))


def _told(conditions: _Path) -> str:
    return " and ".join(str(condition) for condition in conditions)
