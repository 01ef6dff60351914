"""Rules on the order of steps: what is waited for exists, comes before, and is not skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_values import references
from millrace.compilers.sagemaker.view import StepView, View, branch_steps, error, quoted, unknown_keys
from millrace.errors import did_you_mean

__all__ = ["branches", "cycles", "dependencies"]

_TRIGGERS = ("Completed", "Failed", "Stopped", "Any")


def dependencies(view: View) -> Iterator[Finding]:
    """DependsOn names steps that there are, with a trigger that there is."""
    for step in view.listed:
        given = step.data.get("DependsOn", [])
        if not isinstance(given, list):
            yield error(f"{step.path}.DependsOn", f"a list is needed, given {quoted(given)}")
            continue
        for index, item in enumerate(given):
            path = f"{step.path}.DependsOn[{index}]"
            name = item.get("Step") if isinstance(item, Mapping) else item
            if isinstance(item, Mapping):
                yield from unknown_keys(item, ("Step", "Trigger"), path)
                if item.get("Trigger", "Completed") not in _TRIGGERS:
                    told = did_you_mean(str(item["Trigger"]), _TRIGGERS)
                    yield error(f"{path}.Trigger", f"unknown trigger {quoted(item['Trigger'])}: {told}")
            if not isinstance(name, str):
                yield error(path, f"the name of a step is needed, given {quoted(item)}")
            elif name not in view.steps:
                yield error(path, f"there is no step {name!r}: {did_you_mean(name, view.steps)}")


def _needed(step: StepView) -> list[str]:
    """Names of the steps that a step waits for."""
    own: Any = {name: value for name, value in step.arguments.items() if name not in branch_steps(step)}
    given = step.data.get("DependsOn")
    named = [
        item.get("Step") if isinstance(item, Mapping) else item for item in (given if isinstance(given, list) else [])
    ]
    further = {key: value for key, value in step.data.items() if key not in ("Arguments", "DependsOn")}
    found = [*(name for name in named if isinstance(name, str)), *references(own), *references(further)]
    return list(dict.fromkeys(found))


def branches(view: View) -> Iterator[Finding]:
    """No step waits for one that another condition, or the other branch, may skip."""
    for step in view.listed:
        for name in _needed(step):
            other = view.steps.get(name)
            if other is None or step.inside[: len(other.inside)] == other.inside:
                continue
            condition, branch = next(
                place for index, place in enumerate(other.inside) if step.inside[index : index + 1] != (place,)
            )
            told = f"it needs step {name!r}, which runs only in {branch} of {condition!r}: put it there, too"
            yield error(step.path, f"{told}, or move {name!r} out")


def cycles(view: View) -> Iterator[Finding]:
    """Each step can begin at some time."""
    before: dict[str, list[str]] = {}
    for step in view.steps.values():
        outer = [step.inside[-1][0]] if step.inside else []
        before[step.name] = [name for name in (*_needed(step), *outer) if name in view.steps]
    done: set[str] = set()
    for start in before:
        yield from _from(view, start, before, done)


def _from(view: View, start: str, before: Mapping[str, list[str]], done: set[str]) -> Iterator[Finding]:
    """A cycle that is reached from a step, if there is a new one; without recursion, as chains may be long."""
    if start in done:
        return
    chain, waiting = [start], [iter(before[start])]
    while chain:
        name = next(waiting[-1], None)
        if name is None:
            done.add(chain.pop())
            waiting.pop()
        elif name in chain:
            round_trip = [*chain[chain.index(name) :], name]
            first = view.steps[name]
            if len(round_trip) == 2:
                yield error(first.path, "the step waits for itself")
            else:
                told = " -> ".join(repr(one) for one in round_trip)
                yield error(first.path, f"steps wait for each other: {told} (each needs the next one)")
            done.update(chain)
            return
        elif name not in done:
            chain.append(name)
            waiting.append(iter(before[name]))
