"""Tasks that read or change the world outside their pipeline, and so run each time."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.specs.component import ComponentSpec
from millrace.specs.pipeline import Task

__all__ = ["is_uncached"]


def is_uncached(task: Task, component: ComponentSpec, opened: Iterable[str] = ()) -> bool:
    """Whether the task reads or changes the world outside the pipeline.

    Args:
        task: The task.
        component: Its component.
        opened: Dotted parameters that runtime parameters fill: their values are not known yet.
    """
    heads = {path.partition(".")[0] for path in opened}
    return any(task.parameters.get(name) or name in heads for name in component.uncached_when)
