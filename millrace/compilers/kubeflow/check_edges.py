"""Rules on edges: what a task is given exists, has the right type, and is there when the task runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import Path, shown
from millrace.compilers.kubeflow.view import (
    Use,
    View,
    artifacts_of,
    before,
    component_path,
    parameters_of,
)
from millrace.errors import did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = [
    "artifact_edges",
    "defaults",
    "given",
    "literals",
    "optional_inputs",
    "output_type",
    "parameter_edges",
    "skipped_producers",
]

_NUMBERS = frozenset({"NUMBER_DOUBLE", "NUMBER_INTEGER"})
_PASSED_BY_THE_BACKEND = frozenset({"TASK_CONFIG", "TASK_FINAL_STATUS"})


def parameter_edges(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Each given parameter is there, and its type is what the component takes."""
    for use in view.uses:
        for name, given_value in use.parameters.items():
            path = (*use.path, "inputs", "parameters", name)
            made, problem = _source(view, use, given_value, path)
            if problem is not None:
                yield problem
            wanted = parameters_of(use.component).get(name, {}).get("parameterType")
            if made and wanted and "parameterExpressionSelector" not in given_value and not fits(made, wanted):
                yield Finding("error", shown(path), f"{name!r} takes {wanted}, given {made}{_why(made, wanted)}")


def source_type(view: View, use: Use, name: str) -> str | None:
    """The type of what a task is given for a name, declared by its component or not."""
    declared = parameters_of(use.component).get(name, {}).get("parameterType")
    return declared or _source(view, use, use.parameters.get(name, {}), ("",))[0]


def _source(view: View, use: Use, given_value: Mapping[str, Any], path: Path) -> Source:
    """The type of a parameter's value, as far as it is known, or what is wrong with where it comes from."""
    for key, source in _SOURCES.items():
        if key in given_value:
            return source(view, use, given_value[key], (*path, key))
    wanted = parameters_of(use.component).get(str(path[-1]), {}).get("parameterType")
    if wanted in _PASSED_BY_THE_BACKEND:
        return None, None
    return None, Finding("error", shown(path), "it does not say where the value comes from")


def _from_parent(view: View, use: Use, name: str, path: Path) -> Source:
    known = parameters_of(view.components[use.owner])
    if name not in known:
        return None, _unknown(path, "input parameter", name, use.owner, known)
    return known[name].get("parameterType"), None


def _from_task(view: View, use: Use, output: Mapping[str, Any], path: Path) -> Source:
    producer, problem = _producer(view, use, output, path)
    if producer is None:
        return None, problem
    key = output.get("outputParameterKey", "")
    known = parameters_of(producer.component, "output")
    if key not in known:
        return None, _unknown((*path, "outputParameterKey"), "output parameter", key, producer.name, known)
    return output_type(view, producer, key), None


def _from_constant(view: View, use: Use, runtime: Mapping[str, Any], path: Path) -> Source:
    if "constant" not in runtime:
        return None, Finding("error", shown(path), "the backend resolves constants only, not runtime parameters")
    return type_of(runtime["constant"]), None


def _from_status(view: View, use: Use, status: Mapping[str, Any], path: Path) -> Source:
    if not use.task.get("dependentTasks"):
        return None, Finding("error", shown(path), "a final status needs a task that this one waits for")
    return "TASK_FINAL_STATUS", None


Source = tuple[str | None, Finding | None]
_SOURCES: Mapping[str, Callable[[View, Use, Any, Path], Source]] = {
    "componentInputParameter": _from_parent,
    "taskOutputParameter": _from_task,
    "runtimeValue": _from_constant,
    "taskFinalStatus": _from_status,
}


def artifact_edges(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Each given artifact is there, and lists go to inputs that take lists."""
    for use in view.uses:
        for name, source in use.artifacts.items():
            path = (*use.path, "inputs", "artifacts", name)
            made, problem = _artifact(view, use, source, path)
            if problem is not None:
                yield problem
            elif made is not None and made.get("isArtifactList") and "dag" in use.component:
                yield Finding(
                    "error",
                    shown(path),
                    "a list of artifacts goes into a graph (condition, loop, pipeline in a pipeline): the backend "
                    "hands only one of them on. Let a task outside of it put them together",
                )
            elif made is not None:
                yield from _artifact_type(path, name, artifacts_of(use.component).get(name, {}), made)


def _artifact(
    view: View, use: Use, source: Mapping[str, Any], path: Path
) -> tuple[Mapping[str, Any] | None, Finding | None]:
    """What is declared of an artifact where it comes from."""
    if "componentInputArtifact" in source:
        name, known = source["componentInputArtifact"], artifacts_of(view.components[use.owner])
        if name not in known:
            return None, _unknown((*path, "componentInputArtifact"), "input artifact", name, use.owner, known)
        return known[name], None
    output = source.get("taskOutputArtifact", {})
    producer, problem = _producer(view, use, output, (*path, "taskOutputArtifact"))
    if producer is None:
        return None, problem
    key, known = output.get("outputArtifactKey", ""), artifacts_of(producer.component, "output")
    if key not in known:
        place = (*path, "taskOutputArtifact", "outputArtifactKey")
        return None, _unknown(place, "output artifact", key, producer.name, known)
    return {**known[key], **({"isArtifactList": True} if producer.loops else {})}, None


def _artifact_type(path: Path, name: str, wanted: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[Finding]:
    takes, gives = (item.get("artifactType", {}).get("schemaTitle", "") for item in (wanted, made))
    if takes and gives and takes not in (gives, "system.Artifact") and gives != "system.Artifact":
        yield Finding("error", shown(path), f"{name!r} takes {takes}, given {gives}")
    if made.get("isArtifactList") and wanted and not wanted.get("isArtifactList"):
        yield Finding(
            "error",
            shown(path),
            f"{name!r} takes one artifact, given those of a loop: the backend would take the first",
        )


def skipped_producers(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """A task that reads from one with a condition is skipped together with it."""
    for use in view.uses:
        for kind, output in (("parameters", "taskOutputParameter"), ("artifacts", "taskOutputArtifact")):
            for name, source in use.task.get("inputs", {}).get(kind, {}).items():
                producer = view.by_place.get((use.owner, source.get(output, {}).get("producerTask", "")))
                if producer and producer.condition and not use.exits and not use.condition:
                    path = shown((*use.path, "inputs", kind, name))
                    yield Finding(
                        "warning", path, f"{producer.name!r} has a condition; when it is skipped, this task is, too"
                    )


def given(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Every input that is neither optional nor made by the loop itself is given."""
    for use in view.uses:
        iterator = use.task.get("parameterIterator", {})
        for name, wanted in parameters_of(use.component).items():
            free = (
                name in use.parameters
                or wanted.get("isOptional")
                or "defaultValue" in wanted
                or iterator.get("itemInput") == name
                or wanted.get("parameterType") in _PASSED_BY_THE_BACKEND
            )
            if not free:
                yield Finding("error", shown((*use.path, "inputs", "parameters")), f"parameter {name!r} is missing")
        for name, artifact in artifacts_of(use.component).items():
            looped = use.task.get("artifactIterator", {}).get("itemInput") == name
            if name not in use.artifacts and not artifact.get("isOptional") and not looped:
                yield Finding("error", shown((*use.path, "inputs", "artifacts")), f"artifact {name!r} is missing")


def optional_inputs(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """An argument that names a parameter needs it: the backend puts no default in its place."""
    for container in view.containers:
        words = " ".join(word for _, word in container.words() if '{"IfPresent"' not in word)
        for use in container.uses:
            for name, wanted in parameters_of(container.component).items():
                if (
                    name in use.parameters
                    or not wanted.get("isOptional")
                    or f"{{{{$.inputs.parameters['{name}']}}}}" not in words
                ):
                    continue
                path = shown((*use.path, "inputs", "parameters"))
                if "defaultValue" not in wanted:
                    yield Finding(
                        "error", path, f"{name!r} is not given, and without a default an argument keeps its placeholder"
                    )
                elif compat == "2.17":
                    yield Finding(
                        "warning", path, f"{name!r} is not given: Kubeflow Pipelines 2.17.0 fails here, 2.17.1 does not"
                    )


def defaults(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Defaults have the type of their parameter."""
    for name, component in view.components.items():
        for parameter, spec in parameters_of(component).items():
            wanted = spec.get("parameterType")
            if "defaultValue" in spec and spec["defaultValue"] is not None:
                made = type_of(spec["defaultValue"])
                if wanted and made != wanted and not ({made, wanted} <= _NUMBERS) and not _is_struct(made, wanted):
                    path = (*component_path(name), "inputDefinitions", "parameters", parameter, "defaultValue")
                    yield Finding("error", shown(path), f"the parameter is {wanted}, its default {made}")
            if name == "root" and wanted in _PASSED_BY_THE_BACKEND and not spec.get("isOptional"):
                path = ("root", "inputDefinitions", "parameters", parameter)
                yield Finding("error", shown(path), f"a pipeline can't have a parameter of type {wanted}")


def outputs(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """What a graph gives to the outside is made by a task inside it."""
    for owner, component in view.components.items():
        declared = component.get("dag", {}).get("outputs", {})
        path = (*component_path(owner), "dag", "outputs")
        for name, spec in declared.get("artifacts", {}).items():
            for index, selector in enumerate(spec.get("artifactSelectors", [])):
                place = (*path, "artifacts", name, "artifactSelectors", index)
                yield from _selected(view, owner, selector, "outputArtifactKey", place)
        for name, spec in declared.get("parameters", {}).items():
            for index, selector in enumerate(spec.get("valueFromOneof", {}).get("parameterSelectors", [])):
                place = (*path, "parameters", name, "valueFromOneof", "parameterSelectors", index)
                yield from _selected(view, owner, selector, "outputParameterKey", place)
            if "valueFromParameter" in spec:
                place = (*path, "parameters", name, "valueFromParameter")
                yield from _selected(view, owner, spec["valueFromParameter"], "outputParameterKey", place)


def _selected(view: View, owner: str, selector: Mapping[str, Any], key: str, path: Path) -> Iterator[Finding]:
    task, name = selector.get("producerSubtask", ""), selector.get(key, "")
    producer = view.by_place.get((owner, task))
    if producer is None:
        hint = did_you_mean(task, (use.name for use in view.uses if use.owner == owner))
        yield Finding("error", shown((*path, "producerSubtask")), f"unknown task {task!r}: {hint}")
        return
    known = (artifacts_of if key == "outputArtifactKey" else parameters_of)(producer.component, "output")
    if name not in known:
        yield _unknown((*path, key), "output", name, task, known)


def literals(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Defaults and constants are among the allowed values, where those are listed."""
    for name, component in view.components.items():
        for parameter, spec in parameters_of(component).items():
            allowed = spec.get("literals", [])
            path = (*component_path(name), "inputDefinitions", "parameters", parameter)
            if allowed and "defaultValue" in spec and spec["defaultValue"] not in allowed:
                yield Finding(
                    "error", shown((*path, "defaultValue")), f"{spec['defaultValue']!r} is none of {allowed!r}"
                )
            if allowed and before(compat, "2.17") and not before(compat, "2.16") and name == "root":
                yield Finding("warning", shown((*path, "literals")), "the run form offers them as a list from 2.17 on")
    for use in view.uses:
        for parameter, value in use.parameters.items():
            allowed = parameters_of(use.component).get(parameter, {}).get("literals", [])
            runtime = value.get("runtimeValue", {})
            if allowed and "constant" in runtime and runtime["constant"] not in allowed:
                path = (*use.path, "inputs", "parameters", parameter)
                yield Finding("error", shown(path), f"{runtime['constant']!r} is none of {allowed!r}")


def _producer(view: View, use: Use, output: Mapping[str, Any], path: Path) -> tuple[Use | None, Finding | None]:
    name = output.get("producerTask", "")
    producer = view.by_place.get((use.owner, name))
    if producer is None:
        inside = sorted(other.owner for other in view.uses if other.name == name)
        where = f"; a task of this name is inside {inside[0]!r}, out of reach from here" if inside else ""
        known = [other.name for other in view.uses if other.owner == use.owner and other.name != use.name]
        hint = where or f": {did_you_mean(name, known)}"
        return None, Finding("error", shown((*path, "producerTask")), f"unknown task {name!r}{hint}")
    return producer, None


def output_type(view: View, producer: Use, key: str, depth: int = 0) -> str | None:
    """The type of what a task really gives: a loop gives a list of what its tasks give."""
    if producer.loops:
        return "LIST"
    declared = parameters_of(producer.component, "output").get(key, {}).get("parameterType")
    inner = producer.component.get("dag", {}).get("outputs", {}).get("parameters", {}).get(key)
    if not inner or depth > 50:
        return declared
    owner = producer.task.get("componentRef", {}).get("name", "")
    selectors = inner.get("valueFromOneof", {}).get("parameterSelectors") or [inner.get("valueFromParameter", {})]
    below = view.by_place.get((owner, selectors[0].get("producerSubtask", "")))
    if below is None:
        return declared
    return output_type(view, below, selectors[0].get("outputParameterKey", ""), depth + 1)


def type_of(value: object) -> str | None:
    """The parameter type of a constant; None for null."""
    if isinstance(value, str) and re.fullmatch(r"\{\{\$\.(pipeline_\w+|workspace_path)\}\}", value):
        return "STRING"
    kinds: Mapping[type, str] = {
        bool: "BOOLEAN",
        str: "STRING",
        int: "NUMBER_DOUBLE",
        float: "NUMBER_DOUBLE",
        list: "LIST",
        dict: "STRUCT",
    }
    return kinds.get(type(value))


def fits(made: str, wanted: str) -> bool:
    """Whether the backend takes a value of one type for another: everything can be text."""
    return wanted in ("STRING", made) or {made, wanted} <= _NUMBERS or _is_struct(made, wanted)


def _is_struct(made: str | None, wanted: str) -> bool:
    return made in ("STRUCT", "TASK_FINAL_STATUS") and wanted in ("STRUCT", *_PASSED_BY_THE_BACKEND)


def _why(made: str, wanted: str) -> str:
    if made == "STRING":
        return "; items of an untyped list are text to the backend: write list[dict], list[int], ..."
    return "; a loop gives a list of its tasks' values" if made == "LIST" else ""


def _unknown(path: Path, what: str, name: str, owner: str, known: Mapping[str, Any]) -> Finding:
    return Finding("error", shown(path), f"unknown {what} {name!r} of {owner!r}: {did_you_mean(name, known)}")
