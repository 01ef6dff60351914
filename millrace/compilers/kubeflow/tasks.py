"""From a task of a pipeline to what kfp is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millrace.compilers.images import reference
from millrace.compilers.kubeflow.interface import (
    Interface,
    Taken,
    Value,
    as_constant,
    command,
    made_by,
    paths,
    schema_of,
)
from millrace.compilers.kubeflow.pods import cluster_work, pod_settings, ranks_here
from millrace.compilers.refusals import check_earlier, check_mounted, check_work
from millrace.errors import ConfigError
from millrace.specs import PipelineSpec, RuntimeParameter, Task, TaskOutput
from millrace.targets.kubeflow import Kubeflow

__all__ = ["KINDS", "RUN_VARIABLE", "Planned", "open_name", "plan_task"]

RUN_VARIABLE = "MILLRACE_RUN"
"""Environment variable with the run's id: as an input it would make each run's results another's, and uncached."""

KINDS: Mapping[str, type[str] | type[int] | type[float] | type[bool]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
}


@dataclass(frozen=True)
class Planned:
    """A task with everything that decides on its place in the document."""

    task: Task
    interface: Interface
    constants: dict[str, str | int]
    opened: dict[str, str]
    """Dotted names of the pipeline's own parameters, by the inputs that they fill."""
    artifacts: dict[str, TaskOutput]
    """Outputs of other tasks, by the inputs that they feed."""


def open_name(parameter: RuntimeParameter) -> str:
    """The name of a runtime parameter in a document."""
    return parameter.name.replace(".", "_")


def plan_task(task: Task, spec: PipelineSpec, target: Kubeflow) -> Planned:
    """Decide on a task's inputs, outputs, image and arguments.

    Raises:
        ConfigError: For an image that is not fixed, or names that collide.
    """
    component = spec.component_of(task)
    constants: dict[str, str | int] = {"parameters": as_constant(task.parameters)}
    values = {"parameters": Value(str, f"Parameters of {task.name} as a JSON object.")}
    if task.for_each is not None:
        constants |= {"share_index": 0, "share_count": task.for_each.shares}
        values["share_index"] = Value(int, "Which share of the work this is.")
        values["share_count"] = Value(int, "Number of shares.")
    opened: dict[str, str] = {}
    filled: list[str] = []
    for parameter in spec.runtime_parameters:
        name = open_name(parameter)
        targets = [item.path for item in parameter.fills if item.task == task.name]
        if targets:
            values[name] = Value(KINDS[parameter.kind], parameter.description)
            opened[name] = parameter.name
        filled += [word for path in targets for word in ("--open", f"{name}={path}")]
    artifacts, taken, parts = _artifacts(task, spec)
    for name in (constants.keys() | taken.keys()) & opened.keys():
        raise ConfigError(f"runtime: {name} can't stay open: task {task.name!r} has an input of that name")
    made = made_by(component)
    work = cluster_work(task, component, target)
    check_earlier(task.name, component, task.parameters)
    if "training" in component.delegates:
        pod = pod_settings(task.name, target)
        mounts = [claim.path for claim in pod.volume_claims] + [secret.path for secret in pod.secret_volumes]
        check_mounted(task.name, component, task.parameters, mounts)
    if work is not None or "training" in component.delegates:
        check_work(task, component, work or task.distribution)
    return Planned(
        task=task,
        interface=Interface(
            name=task.name,
            image=reference(component.image, target.images),
            command=command(component),
            arguments=[
                *("--executor-input", "{{$}}", "--run", f"$({RUN_VARIABLE})", "--task", task.name),
                *paths(
                    "--input", "inputs", (name for name, one in taken.items() if name not in parts and not one.many)
                ),
                *(word for name, port in parts.items() for word in ("--part", f"{port}={name}")),
                *paths("--output", "outputs", (name for name, one in made.items() if one.schema)),
                *filled,
                *(["--cluster", as_constant(work.model_dump(mode="json"))] if work else []),
                *ranks_here(task, work),
            ],
            values=values,
            taken=taken,
            made=made,
        ),
        constants=constants,
        opened=opened,
        artifacts=artifacts,
    )


def _artifacts(task: Task, spec: PipelineSpec) -> tuple[dict[str, TaskOutput], dict[str, Taken], dict[str, str]]:
    """A task's input artifacts: their producers, their types, and the ports of those that are parts of one.

    kfp makes no list of what different tasks made, so each gets an input of its own; the shares of one task
    are one part.
    """
    ports = {port.name: port for port in spec.component_of(task).inputs}
    artifacts: dict[str, TaskOutput] = {}
    taken: dict[str, Taken] = {}
    parts: dict[str, str] = {}
    for port, outputs in task.inputs.items():
        for number, output in enumerate(outputs):
            name = port if len(outputs) == 1 else f"{port}_{number}"
            while name != port and name in ports:
                name += "_"
            producer = spec.task(output.task)
            many = producer.for_each is not None and producer.for_each.shares > 1
            if name != port or (many and ports[port].many):
                parts[name] = port
            artifacts[name] = output
            taken[name] = Taken(schema_of(ports[port].artifact), ports[port].description, many=many)
    return artifacts, taken, parts
