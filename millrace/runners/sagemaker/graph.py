"""In which order steps run, which are left out, and how the pipeline ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from millrace.errors import MillraceError
from millrace.runners.record import TaskState
from millrace.runners.sagemaker.definition import Branch, Definition, Dependency, Step
from millrace.runners.sagemaker.run import Run
from millrace.runners.sagemaker.steps import run_step

__all__ = ["Done", "run_graph", "why_not"]


@dataclass(frozen=True)
class Done:
    """How a step ended."""

    state: TaskState
    reason: str = ""
    branch: Branch | None = None
    """Of a condition: whose steps run."""
    after_failure: bool = False
    """It ran because another one had failed."""


async def run_graph(run: Run) -> str:
    """Run all steps, each as soon as those that it needs have ended; why the pipeline failed, or nothing.

    Once a step has failed, only steps are started whose turn it is because of that.
    """
    waiting = dict(run.definition.steps)
    running: dict[asyncio.Task[Done], str] = {}
    done: dict[str, Done] = {}
    try:
        while waiting or running:
            for step in [step for step in waiting.values() if _ready(step, done)]:
                del waiting[step.name]
                reason, handles = why_not(step, done)
                if reason:
                    _skip(run, step, reason)
                    done[step.name] = Done(TaskState.SKIPPED, reason)
                else:
                    running[asyncio.create_task(_run(run, step, handles))] = step.name
            if running:
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for future in ended:
                    done[running.pop(future)] = future.result()
            elif waiting and not any(_ready(step, done) for step in waiting.values()):
                return f"steps wait for each other: {', '.join(waiting)}"
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return _result(run.definition, done)


def _ready(step: Step, done: Mapping[str, Done]) -> bool:
    return all(dependency.step in done for dependency in step.needs)


def why_not(step: Step, done: Mapping[str, Done]) -> tuple[str, bool]:
    """Why a step whose needs have ended does not run, or nothing; and whether it runs because a step failed."""
    handles = False
    for dependency in step.needs:
        upstream = done[dependency.step]
        if reason := _unsuitable(dependency, upstream):
            return reason, False
        handles = handles or upstream.after_failure or upstream.state is TaskState.FAILED
    if step.inside and done[step.inside[0]].branch != step.inside[1]:
        holds = "holds" if step.inside[1] == "ElseSteps" else "does not hold"
        return f"the condition {step.inside[0]} {holds}", False
    failed = [name for name, other in done.items() if other.state is TaskState.FAILED]
    if failed and not handles:
        return f"{failed[0]} failed before it started", False
    return "", handles


def _unsuitable(dependency: Dependency, upstream: Done) -> str:
    if upstream.state is TaskState.SKIPPED:
        return f"{dependency.step} did not run"
    failed = upstream.state is TaskState.FAILED
    if dependency.trigger == "Any" or dependency.trigger == ("Failed" if failed else "Completed"):
        return ""
    if dependency.trigger == "Completed":
        return f"{dependency.step} failed"
    return f"{dependency.step} was not {'stopped' if dependency.trigger == 'Stopped' else 'failing'}"


def _skip(run: Run, step: Step, reason: str) -> None:
    entry = run.begin(step)
    entry.started = None
    run.end(entry, TaskState.SKIPPED, reason)


async def _run(run: Run, step: Step, handles: bool) -> Done:
    """Run one step; a failure becomes how it ended."""
    entry = run.begin(step)
    try:
        ended, branch = await run_step(run, step, entry)
    except MillraceError as error:
        run.end(entry, TaskState.FAILED, str(error))
        return Done(TaskState.FAILED, str(error), after_failure=handles)
    except asyncio.CancelledError:
        run.end(entry, TaskState.CANCELLED, "stopped")
        raise
    entry.properties = dict(ended.properties)
    if ended.state != "Completed":
        run.end(entry, TaskState.FAILED, ended.reason or ended.state)
        return Done(TaskState.FAILED, entry.reason, after_failure=handles)
    run.properties[step.name] = ended.properties
    run.end(entry, TaskState.SUCCEEDED, ended.reason)
    return Done(TaskState.SUCCEEDED, branch=branch, after_failure=handles)


def _result(definition: Definition, done: Mapping[str, Done]) -> str:
    failed = [name for name in definition.steps if done[name].state is TaskState.FAILED]
    if not failed:
        return ""
    first = next(name for name in done if done[name].state is TaskState.FAILED)
    handled = any(other.after_failure and other.state is TaskState.SUCCEEDED for other in done.values())
    told = " (steps for this case ran: the service calls it CompletedWithFailures)" if handled else ""
    return f"{first}: {done[first].reason}{told}"
