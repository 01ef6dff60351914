"""Graphs of a document: in which order tasks run, what is skipped, and what a graph gives to its surroundings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.errors import MillraceError, TaskFailedError
from millrace.runners.kubeflow.conditions import condition_holds
from millrace.runners.kubeflow.importer import import_artifact
from millrace.runners.kubeflow.inputs import Collected, Inputs, Outcome, Scope, Task, resolve, typed
from millrace.runners.kubeflow.launcher import run_container
from millrace.runners.kubeflow.run import Run
from millrace.runners.kubeflow.values import canonical
from millrace.runners.kubeflow.volumes import VOLUME_IMAGES, run_volume_task
from millrace.runners.record import TaskState

__all__ = ["dependencies", "is_exit_task", "run_graph"]

_MOST_TURNS = 64
"""Turns of one loop that are looked after at the same time; how many containers run is bounded elsewhere."""


def is_exit_task(spec: Mapping[str, Any]) -> bool:
    """Whether a task runs after others however they ended."""
    return bool(spec.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED")


def dependencies(spec: Mapping[str, Any]) -> set[str]:
    """Tasks of the same graph that must have ended before."""
    found = set(spec.get("dependentTasks", []))
    for source in spec.get("inputs", {}).get("parameters", {}).values():
        if "taskOutputParameter" in source:
            found.add(source["taskOutputParameter"]["producerTask"])
    for source in spec.get("inputs", {}).get("artifacts", {}).values():
        if "taskOutputArtifact" in source:
            found.add(source["taskOutputArtifact"]["producerTask"])
    return found


async def run_graph(run: Run, label: str, scope: Scope) -> Outcome:
    """Run the tasks of a component's graph; once one has failed, none is started but exit tasks."""
    tasks = {name: run.task(name, label) for name in run.view.components[label]["dag"]["tasks"]}
    waiting = dict(sorted(tasks.items()))
    running: dict[asyncio.Task[Outcome], str] = {}
    try:
        while waiting or running:
            for name in [name for name, task in waiting.items() if _ready(task, scope)]:
                task = waiting.pop(name)
                if reason := _why_not(task, scope):
                    _skip(run, scope, task, reason)
                else:
                    running[asyncio.create_task(_run_task(run, task, scope))] = name
            if running:
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for future in ended:
                    scope.done[running.pop(future)] = future.result()
            elif waiting and not any(_ready(task, scope) for task in waiting.values()):
                raise TaskFailedError(f"the backend refuses this: tasks wait for each other: {', '.join(waiting)}")
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return _result(run.view.components[label]["dag"], scope)


def _ready(task: Task, scope: Scope) -> bool:
    return dependencies(task.spec) <= scope.done.keys()


def _why_not(task: Task, scope: Scope) -> str:
    """Why a task does not run, or nothing."""
    ended = {name: scope.done[name].state for name in sorted(dependencies(task.spec))}
    if is_exit_task(task.spec):
        idle = [name for name, state in ended.items() if state is TaskState.SKIPPED]
        return f"{idle[0]} did not run" if idle and len(idle) == len(ended) else ""
    for name, state in ended.items():
        if not state.done:
            return f"{name} {'failed' if state is TaskState.FAILED else 'was skipped'}"
    failed = [name for name, outcome in scope.done.items() if outcome.state is TaskState.FAILED]
    return f"{failed[0]} failed before it started" if failed else ""


def _skip(run: Run, scope: Scope, task: Task, reason: str) -> None:
    entry = run.begin(scope.name(task.name), _kind(run, task))
    entry.started = None
    run.end(entry, TaskState.SKIPPED, reason)
    scope.done[task.name] = Outcome(TaskState.SKIPPED, reason)


def _kind(run: Run, task: Task) -> str:
    if task.iterator:
        return "loop"
    if "dag" in task.component:
        return "graph"
    executor = run.view.executors[task.component["executorLabel"]]
    if "importer" in executor:
        return "importer"
    return "volume" if executor.get("container", {}).get("image") in VOLUME_IMAGES else "container"


async def _run_task(run: Run, task: Task, scope: Scope) -> Outcome:
    """Run one task; a failure becomes an outcome."""
    kind = _kind(run, task)
    entry = run.begin(scope.name(task.name), kind)
    try:
        if kind == "importer":
            outcome = await import_artifact(run, task, scope)
        else:
            inputs = resolve(task, scope, run.identity)
            condition = task.spec.get("triggerPolicy", {}).get("condition")
            if condition and not condition_holds(condition, inputs.parameters):
                run.end(entry, TaskState.SKIPPED, "its condition does not hold")
                return Outcome(TaskState.SKIPPED, entry.reason)
            if kind == "volume":
                outcome = await run_volume_task(run, task, inputs)
            elif kind == "container":
                outcome = await run_container(run, task, scope, inputs, entry)
            else:
                _refuse_lists(inputs)
                outcome = await (_run_loop if kind == "loop" else _run_nested)(run, task, scope, inputs)
    except MillraceError as error:
        outcome = Outcome(TaskState.FAILED, str(error))
    except asyncio.CancelledError:
        run.end(entry, TaskState.CANCELLED, "stopped")
        raise
    run.end(entry, outcome.state, outcome.reason)
    return outcome


def _refuse_lists(inputs: Inputs) -> None:
    """A graph of the backend knows one artifact for each input."""
    for name, artifacts in inputs.artifacts.items():
        if len(artifacts) > 1:
            raise TaskFailedError(
                f"the backend hands only one of the {len(artifacts)} artifacts of {name!r} into a nested graph "
                "(a condition, a loop, a pipeline in a pipeline): use the list outside of it"
            )


async def _run_nested(run: Run, task: Task, scope: Scope, inputs: Inputs) -> Outcome:
    return await run_graph(run, task.label, Scope(inputs, (*scope.path, task.name)))


async def _run_loop(run: Run, task: Task, scope: Scope, inputs: Inputs) -> Outcome:
    """Run a graph once for each item; all turns are run, however the others end."""
    items = _items(task, inputs)
    given = dict(inputs.parameters)
    iterator = task.iterator or {}
    consumed = iterator["items"].get("inputParameter")
    given.pop(consumed, None)
    limit = int(task.spec.get("iteratorPolicy", {}).get("parallelismLimit", 0)) or _MOST_TURNS
    turns = asyncio.Semaphore(limit)

    async def turn(index: int) -> Outcome:
        async with turns:
            name = f"{task.name}[{index}]"
            parameters = {**given, iterator["itemInput"]: items[index]}
            try:
                typed(task, parameters, set(), without=consumed)
            except TaskFailedError as error:
                return Outcome(TaskState.FAILED, f"{name}: {error}")
            inner = Scope(Inputs(parameters, inputs.artifacts), (*scope.path, name))
            return await run_graph(run, task.label, inner)

    outcomes = await asyncio.gather(*(turn(index) for index in range(len(items))))
    failed = [outcome for outcome in outcomes if outcome.state is TaskState.FAILED]
    if failed:
        return Outcome(TaskState.FAILED, failed[0].reason)
    return _collected(task.component["dag"], outcomes)


def _items(task: Task, inputs: Inputs) -> list[Any]:
    source = (task.iterator or {})["items"]
    value = inputs.parameters.get(source["inputParameter"]) if "inputParameter" in source else source.get("raw", "[]")
    if isinstance(value, str):
        try:
            value = canonical(json.loads(value))
        except ValueError:
            raise TaskFailedError(f"the backend can't loop over {value[:80]!r}: it is no JSON list") from None
    if not isinstance(value, list):
        raise TaskFailedError(f"the backend can't loop over a {type(value).__name__}")
    return value


def _collected(dag: Mapping[str, Any], outcomes: list[Outcome]) -> Outcome:
    """What a loop gives: each output of all turns."""
    found = Outcome(TaskState.SUCCEEDED)
    outputs = dag.get("outputs", {})
    for name in outputs.get("parameters", {}):
        values = Collected()
        for index, outcome in enumerate(outcomes):
            if name not in outcome.parameters:
                found.missing[name] = f"turn {index} did not give it: {outcome.missing.get(name, '')}"
                break
            value = outcome.parameters[name]
            values.extend(value if isinstance(value, Collected) else [value])
        found.parameters[name] = values
    for name in outputs.get("artifacts", {}):
        artifacts = []
        for index, outcome in enumerate(outcomes):
            if name not in outcome.artifacts:
                found.missing[name] = f"turn {index} did not give it: {outcome.missing.get(name, '')}"
                break
            artifacts += outcome.artifacts[name]
        found.artifacts[name] = artifacts
    if not outcomes:
        found.missing = dict.fromkeys((*found.parameters, *found.artifacts), "the loop had no turns")
    for name in found.missing:
        found.parameters.pop(name, None)
        found.artifacts.pop(name, None)
    return found


def _result(dag: Mapping[str, Any], scope: Scope) -> Outcome:
    """What a graph gives: the state of its tasks, and its outputs."""
    for name, outcome in scope.done.items():
        if outcome.state is TaskState.FAILED:
            inner = outcome.reason
            return Outcome(TaskState.FAILED, inner if inner.startswith(f"{name}:") else f"{name}: {inner}")
    found = Outcome(TaskState.SUCCEEDED)
    outputs = dag.get("outputs", {})
    for name, output in outputs.get("parameters", {}).items():
        for producer, key in _selectors(output):
            if producer in scope.done and key in scope.done[producer].parameters:
                found.parameters[name] = scope.done[producer].parameters[key]
                break
        else:
            found.missing[name] = _absent(scope, list(_selectors(output)))
    for name, output in outputs.get("artifacts", {}).items():
        selectors = [(item["producerSubtask"], item["outputArtifactKey"]) for item in output["artifactSelectors"]]
        for producer, key in selectors:
            if producer in scope.done and key in scope.done[producer].artifacts:
                found.artifacts[name] = scope.done[producer].artifacts[key]
                break
        else:
            found.missing[name] = _absent(scope, selectors)
    return found


def _selectors(output: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    one = output.get("valueFromParameter")
    for item in [one] if one else output["valueFromOneof"]["parameterSelectors"]:
        yield item["producerSubtask"], item["outputParameterKey"]


def _absent(scope: Scope, selectors: list[tuple[str, str]]) -> str:
    told = []
    for producer, key in selectors:
        outcome = scope.done.get(producer)
        state = outcome.missing.get(key) or outcome.state if outcome else "unknown"
        told.append(f"{producer} ({state})")
    return f"it comes from {', '.join(told)}"
