"""What a task gets: its parameters and artifacts, resolved and typed by the rules of the backend's driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace.errors import TaskFailedError, did_you_mean
from millrace.runners.kubeflow.conditions import select
from millrace.runners.kubeflow.values import canonical, check_literals, check_type, text_of
from millrace.runners.record import TaskState

__all__ = ["Artifact", "Collected", "Identity", "Inputs", "Outcome", "Scope", "Task", "resolve", "root_parameters"]

Artifact = dict[str, Any]
"""A RuntimeArtifact of the executor input: name, type, uri, metadata."""
WORKSPACE = "/kfp-workspace"


class Collected(list[Any]):
    """A parameter of all turns of a loop; that of a loop in a loop is one flat list."""


@dataclass(frozen=True)
class Identity:
    """What a run's placeholders stand for."""

    run: str
    """Unique id."""
    resource: str
    """Name of the workflow."""
    display: str
    created: str
    """Time of the start, in UTC."""


@dataclass
class Outcome:
    """How a task ended, and what it gives to others."""

    state: TaskState
    reason: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Artifact]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Outputs that nobody can have, with the reason."""

    def parameter(self, producer: str, key: str) -> Any:
        """One output parameter.

        Raises:
            TaskFailedError: When the task did not give it.
        """
        if key not in self.parameters:
            raise TaskFailedError(self._absent(producer, key))
        return self.parameters[key]

    def artifact(self, producer: str, key: str) -> list[Artifact]:
        """One output artifact, or the list of those of a loop.

        Raises:
            TaskFailedError: When the task did not give it.
        """
        if key not in self.artifacts:
            raise TaskFailedError(self._absent(producer, key))
        return self.artifacts[key]

    def _absent(self, producer: str, key: str) -> str:
        return f"the backend can't resolve output {key!r} of {producer}: {self.missing.get(key) or 'it has none'}"


@dataclass(frozen=True)
class Inputs:
    """The resolved inputs of a task."""

    parameters: dict[str, Any]
    artifacts: dict[str, list[Artifact]]


@dataclass(frozen=True)
class Scope:
    """A graph that runs: its own inputs, and what its tasks have given so far."""

    inputs: Inputs
    path: tuple[str, ...] = ()
    done: dict[str, Outcome] = field(default_factory=dict)

    def name(self, task: str) -> str:
        """A task's path from the root."""
        return "/".join((*self.path, task))


@dataclass(frozen=True)
class Task:
    """One task of a graph."""

    name: str
    spec: Mapping[str, Any]
    component: Mapping[str, Any]
    label: str
    """Name of its component."""

    @property
    def definitions(self) -> Mapping[str, Mapping[str, Any]]:
        """The component's input parameters."""
        found: Mapping[str, Mapping[str, Any]] = self.component.get("inputDefinitions", {}).get("parameters", {})
        return found

    @property
    def iterator(self) -> Mapping[str, Any] | None:
        """How it is repeated, for a loop."""
        found: Mapping[str, Any] | None = self.spec.get("parameterIterator")
        return found


def root_parameters(definitions: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's own parameters, checked as the API server does it; optional ones without a default are null.

    Raises:
        TaskFailedError: Naming the parameter and what is wrong.
    """
    for name in given:
        if name not in definitions:
            raise TaskFailedError(f"parameter {name!r} is unknown: {did_you_mean(name, definitions)}")
    found: dict[str, Any] = {}
    for name, definition in definitions.items():
        if name in given:
            value = canonical(given[name])
            if definition["parameterType"] == "STRING" and isinstance(value, int | float):
                raise TaskFailedError(
                    f"parameter {name!r} is a text, given {text_of(value)}: put quotes around it: "
                    f"parameters.{name}='\"{text_of(value)}\"'"
                )
            check_type(name, value, definition["parameterType"], "parameter")
            check_literals(name, value, definition, "parameter")
            found[name] = value
        elif "defaultValue" in definition or definition.get("isOptional"):
            found[name] = canonical(definition.get("defaultValue"))
        else:
            raise TaskFailedError(f"parameter {name!r} is not optional: give it: parameters.{name}=VALUE")
    return found


def resolve(task: Task, scope: Scope, run: Identity) -> Inputs:
    """What a task gets from its graph.

    Raises:
        TaskFailedError: Where the backend's driver would fail.
    """
    parameters = _unpassed(task)
    absent = {name for name, value in parameters.items() if value is None}
    for name, source in task.spec.get("inputs", {}).get("parameters", {}).items():
        definition = task.definitions.get(name, {})
        if definition.get("parameterType") == "TASK_CONFIG":
            continue
        value = value_of(source, task, scope, run)
        if value is None and "componentInputParameter" in source:
            if definition.get("isOptional"):
                continue
            raise TaskFailedError(
                f"the backend refuses input parameter {name!r}: it is null and the component needs a value"
            )
        check_literals(name, value, definition)
        parameters[name] = value
    for name, source in task.spec.get("inputs", {}).get("parameters", {}).items():
        if selector := source.get("parameterExpressionSelector"):
            parameters[name] = select(selector, parameters.get(name))
    typed(task, parameters, absent, without=(task.iterator or {}).get("itemInput"))
    return Inputs(parameters, _artifacts(task, scope))


def _unpassed(task: Task) -> dict[str, Any]:
    """A graph's optional parameters that nothing is passed to: their defaults, or null."""
    if "dag" not in task.component:
        return {}
    passed = task.spec.get("inputs", {}).get("parameters", {})
    return {
        name: canonical(definition.get("defaultValue"))
        for name, definition in task.definitions.items()
        if name not in passed and definition.get("isOptional")
    }


def value_of(source: Mapping[str, Any], task: Task, scope: Scope, run: Identity) -> Any:
    """The value that a parameter's source stands for.

    Raises:
        TaskFailedError: When it can't be had.
    """
    if "runtimeValue" in source:
        if "constant" not in source["runtimeValue"]:
            raise TaskFailedError("the backend refuses a runtime value that is no constant")
        return _constant(canonical(source["runtimeValue"]["constant"]), task, run)
    if name := source.get("componentInputParameter"):
        if name not in scope.inputs.parameters:
            raise TaskFailedError(f"the backend refuses this: the parent graph has no input parameter {name!r}")
        return scope.inputs.parameters[name]
    if output := source.get("taskOutputParameter"):
        producer = output["producerTask"]
        value = _producer(producer, scope).parameter(producer, output["outputParameterKey"])
        return list(value) if isinstance(value, Collected) else value
    if "taskFinalStatus" in source:
        return _final_status(task, scope, run)
    raise TaskFailedError("the backend refuses an input parameter without a source")


def _constant(value: Any, task: Task, run: Identity) -> Any:
    if not isinstance(value, str):
        return value
    if "{{$.workspace_path}}" in value:
        return value.replace("{{$.workspace_path}}", WORKSPACE)
    known = {
        "{{$.pipeline_job_name}}": run.display,
        "{{$.pipeline_job_resource_name}}": run.resource,
        "{{$.pipeline_job_uuid}}": run.run,
        "{{$.pipeline_task_name}}": task.name,
        "{{$.pipeline_task_uuid}}": "1",
        "{{$.pipeline_job_create_time_utc}}": run.created,
        "{{$.pipeline_job_schedule_time_utc}}": run.created,
    }
    return known.get(value, value)


def _producer(name: str, scope: Scope) -> Outcome:
    if name not in scope.done:
        raise TaskFailedError(f"the backend can't resolve an output of {name}: there is no such task before this one")
    return scope.done[name]


def _final_status(task: Task, scope: Scope, run: Identity) -> dict[str, Any]:
    dependencies = task.spec.get("dependentTasks", [])
    if not dependencies:
        raise TaskFailedError("the backend refuses a final status for a task that depends on none")
    producer = _producer(dependencies[0], scope)
    failed = not producer.state.done
    return {
        "state": "FAILED" if failed else "COMPLETE",
        "pipelineJobResourceName": run.resource,
        "pipelineTaskName": dependencies[0],
        "error": {},
    }


def typed(task: Task, parameters: dict[str, Any], absent: set[str], without: str | None) -> None:
    """Check the types of a task's parameters; what a STRING input gets becomes text, whatever it was.

    Args:
        task: The task.
        parameters: Its parameters, changed in place.
        absent: Those that may be null.
        without: A parameter that is not there yet, or no more: a loop's item, or its items.

    Raises:
        TaskFailedError: When a value is missing or does not fit.
    """
    for name, definition in task.definitions.items():
        if name == without:
            continue
        if name not in parameters:
            if definition.get("isOptional"):
                continue
            if "defaultValue" not in definition:
                raise TaskFailedError(f"the backend refuses input parameter {name!r}: it has neither value nor default")
            continue
        if parameters[name] is None and name in absent:
            continue
        if definition["parameterType"] == "STRING":
            parameters[name] = text_of(parameters[name])
        else:
            check_type(name, parameters[name], definition["parameterType"])


def _artifacts(task: Task, scope: Scope) -> dict[str, list[Artifact]]:
    found: dict[str, list[Artifact]] = {}
    for name, source in task.spec.get("inputs", {}).get("artifacts", {}).items():
        if inner := source.get("componentInputArtifact"):
            if inner not in scope.inputs.artifacts:
                definitions = task.component.get("inputDefinitions", {}).get("artifacts", {})
                if definitions.get(name, {}).get("isOptional"):
                    continue
                raise TaskFailedError(f"the backend refuses this: the parent graph has no input artifact {inner!r}")
            found[name] = scope.inputs.artifacts[inner]
        elif output := source.get("taskOutputArtifact"):
            producer = output["producerTask"]
            found[name] = _producer(producer, scope).artifact(producer, output["outputArtifactKey"])
    return found
