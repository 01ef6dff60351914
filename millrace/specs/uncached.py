"""Tasks that read or change the world outside their pipeline, and so run each time."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from pydantic import JsonValue

from millrace.specs.component import ComponentSpec
from millrace.specs.pipeline import Task

__all__ = ["is_uncached"]


def is_uncached(
    task: Task, component: ComponentSpec, opened: Iterable[str] = (), *, known: Container[str] = ()
) -> bool:
    """Whether the task reads or changes the world outside the pipeline.

    Args:
        task: The task.
        component: Its component.
        opened: Dotted parameters that runtime parameters fill: their values are not known yet.
        known: Dotted parameters of which the caller knows the contents of what they name.
    """
    unknown = tuple(opened)
    return any(
        (name not in known and _reaches_out(task.parameters, name)) or any(_overlap(name, path) for path in unknown)
        for name in component.uncached_when
    )


def _reaches_out(parameters: Mapping[str, JsonValue], name: str) -> bool:
    """Whether a parameter is set, and no `sha256` beside it says what is found there."""
    head, _, rest = name.partition(".")
    value = parameters.get(head)
    if rest:
        return isinstance(value, dict) and _reaches_out(value, rest)
    return bool(value) and not parameters.get("sha256")


def _overlap(one: str, other: str) -> bool:
    """Whether one of two dotted names is in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
