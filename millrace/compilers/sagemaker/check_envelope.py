"""Rules on what stands around the steps' Arguments: keys, parameters, names, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.limits import PIPELINE_PARAMETERS, PIPELINE_STEPS
from millrace.compilers.sagemaker.shapes import CREATED
from millrace.compilers.sagemaker.view import (
    StepView,
    View,
    branch_steps,
    error,
    is_ours,
    mapping,
    pick,
    quoted,
    sequence,
    unknown_keys,
    warning,
)
from millrace.errors import did_you_mean

__all__ = ["STEP_TYPES", "declarations", "files", "names", "steps", "top", "unused"]

STEP_TYPES = (
    *sorted(CREATED),
    *("Callback", "ClarifyCheck", "Cleanup", "Condition", "EMR", "EMRServerless", "Fail", "ForEach", "Job", "Lambda"),
    *("Lineage", "NotebookJob", "QualityCheck"),
)
"""Types of steps; those that SageMaker publishes no request of are checked in what stands around it only."""
_VERSION = "2020-12-01"
_TOP: Mapping[str, tuple[type, str]] = {
    "Version": (str, "a text"),
    "Metadata": (dict, "a mapping"),
    "Parameters": (list, "a list"),
    "PipelineExperimentConfig": (dict, "a mapping"),
    "MlflowConfig": (dict, "a mapping"),
    "Steps": (list, "a list"),
}
_STEP: tuple[str, ...] = ("Name", "Type", "Arguments", "DependsOn", "DisplayName", "Description")
_CACHED = ("Processing", "Training", "Tuning", "Transform", "AutoML", "EndpointConfig", "Endpoint")
_TRIED = (
    "Processing",
    "Training",
    "Tuning",
    "Transform",
    "AutoML",
    "EndpointConfig",
    "Model",
    "RegisterModel",
    "InferenceComponent",
)
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "String": ((str,), "a text"),
    "Integer": ((int,), "a whole number"),
    "Float": ((int, float), "a number"),
    "Boolean": ((bool,), "true or false"),
}
_PARAMETER = ("Name", "Type", "DefaultValue", "EnumValues", "Description")
_NAME = re.compile(r"[A-Za-z0-9_-]*")


def top(document: Mapping[str, Any]) -> Iterator[Finding]:
    """The outermost keys."""
    for key, value in document.items():
        if key not in _TOP:
            yield error(key, f"unknown key: {did_you_mean(key, _TOP)}")
        elif not isinstance(value, _TOP[key][0]) and not (value is None and key.endswith("Config")):
            yield error(key, f"{_TOP[key][1]} is needed, given {quoted(value)}")
    if document.get("Version", 0) != _VERSION and isinstance(document.get("Version", ""), str):
        given = f", given {quoted(document['Version'])}" if "Version" in document else ""
        yield error("Version", f"{_VERSION!r} is needed{given}")
    if not document.get("Steps", ()) and isinstance(document.get("Steps", []), list):
        yield error("Steps", "a pipeline has at least one step")


def declarations(view: View) -> Iterator[Finding]:
    """The parameters are declared well, each once."""
    declared = sequence(view.document.get("Parameters"))
    if len(declared) > PIPELINE_PARAMETERS:
        told = f"{len(declared)} parameters; a pipeline takes {PIPELINE_PARAMETERS}: leave fewer fields open"
        yield error("Parameters", told)
    seen: set[str] = set()
    for index, parameter in enumerate(declared):
        path = f"Parameters[{index}]"
        if not isinstance(parameter, Mapping):
            yield error(path, f"a mapping is needed, given {quoted(parameter)}")
            continue
        name = parameter.get("Name")
        if not isinstance(name, str) or not 1 <= len(name) <= 256 or not _NAME.fullmatch(name):
            told = "a name of 1 to 256 letters, digits, - and _ is needed"
            yield error(f"{path}.Name", f"{told}, given {quoted(name)}")
        elif name in seen:
            yield error(f"{path}.Name", f"{name!r} is declared twice: take one out")
        else:
            seen.add(name)
        yield from unknown_keys(parameter, _PARAMETER, path)
        yield from _values(parameter, path)


def _values(parameter: Mapping[str, Any], path: str) -> Iterator[Finding]:
    kind = parameter.get("Type", "String")
    if not isinstance(kind, str) or kind not in _TYPES:
        yield error(f"{path}.Type", f"unknown type {quoted(kind)}: {did_you_mean(str(kind), _TYPES)}")
        return
    default, allowed = parameter.get("DefaultValue"), parameter.get("EnumValues")
    fitting = default is None or _fits(default, kind)
    if not fitting:
        yield error(f"{path}.DefaultValue", f"{_TYPES[kind][1]} is needed, given {quoted(default)}")
    if allowed is None:
        return
    if kind != "String":
        yield error(
            f"{path}.EnumValues", f"only parameters of type String have a list of values; this is of type {kind}"
        )
    elif not isinstance(allowed, list) or not allowed or not all(isinstance(one, str) for one in allowed):
        yield error(f"{path}.EnumValues", f"a list of texts is needed, given {quoted(allowed)}")
    elif fitting and default is not None and default not in allowed:
        yield error(f"{path}.DefaultValue", f"{default!r} is none of EnumValues: {did_you_mean(default, allowed)}")


def _fits(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind][0]) and isinstance(value, bool) == (kind == "Boolean")


def unused(view: View) -> Iterator[Finding]:
    """A parameter that nothing reads does nothing."""
    text = json.dumps({key: value for key, value in view.document.items() if key != "Parameters"})
    for index, parameter in enumerate(sequence(view.document.get("Parameters"))):
        name = mapping(parameter).get("Name")
        if isinstance(name, str) and json.dumps(f"Parameters.{name}") not in text:
            yield warning(f"Parameters[{index}]", f"nothing reads the parameter {name!r}")


def names(view: View) -> Iterator[Finding]:
    """Steps have names that the service takes, each once, those under conditions, too."""
    if len(view.listed) > PIPELINE_STEPS:
        told = f"{len(view.listed)} steps; {PIPELINE_STEPS} are allowed unless your account has a higher quota"
        yield warning("Steps", told)
    first: dict[str, StepView] = {}
    for step in view.listed:
        if not 1 <= len(step.name) <= 64 or not _NAME.fullmatch(step.name):
            told = "a name of 1 to 64 letters, digits, - and _ is needed"
            yield error(f"{step.path}.Name", f"{told}, given {quoted(step.data.get('Name'))}")
        elif step.name in first:
            yield error(f"{step.path}.Name", f"two steps are called {step.name!r}: rename one")
        else:
            first[step.name] = step


def steps(view: View) -> Iterator[Finding]:
    """The keys of steps, and their types."""
    yield from _mappings(view.document.get("Steps"), "Steps")
    for step in view.listed:
        if step.kind not in STEP_TYPES:
            told = did_you_mean(step.kind, STEP_TYPES)
            yield error(f"{step.path}.Type", f"unknown type {quoted(step.data.get('Type'))}: {told}")
            continue
        known = _keys(step.kind)
        for key in sorted(step.data.keys() - known) if known else ():
            yield error(f"{step.path}.{key}", f"{step.kind} steps have no such key: {did_you_mean(key, known)}")
        if "Arguments" not in step.data and known:
            yield error(step.at(), "a value is required")
        elif not isinstance(step.data.get("Arguments", {}), Mapping):
            yield error(step.at(), f"a mapping is needed, given {quoted(step.data['Arguments'])}")
        yield from _shown(step)
        for branch in branch_steps(step):
            yield from _mappings(step.arguments.get(branch), step.at(branch))


def _mappings(given: Any, path: str) -> Iterator[Finding]:
    for index, data in enumerate(sequence(given)):
        if not isinstance(data, Mapping):
            yield error(f"{path}[{index}]", f"a step is needed, given {quoted(data)}")


def _shown(step: StepView) -> Iterator[Finding]:
    """What people read of a step."""
    for key, longest in (("DisplayName", 256), ("Description", 3072)):
        value = step.data.get(key, "")
        if not isinstance(value, str) or len(value) > longest:
            yield error(f"{step.path}.{key}", f"a text of at most {longest:,} characters is needed: {quoted(value)}")


def _keys(kind: str) -> set[str]:
    """Keys of steps of a type; empty where they are not known."""
    if kind not in (*CREATED, "Condition", "Fail"):
        return set()
    found = set(_STEP)
    if kind in _CACHED:
        found.add("CacheConfig")
    if kind in _TRIED:
        found.add("RetryPolicies")
    if kind == "Processing":
        found.add("PropertyFiles")
    return found


def files(view: View) -> Iterator[Finding]:
    """Property files are files in outputs of their step."""
    for step in view.of_kind("Processing"):
        declared = step.data.get("PropertyFiles", [])
        if not isinstance(declared, list):
            yield error(f"{step.path}.PropertyFiles", f"a list is needed, given {quoted(declared)}")
            continue
        outputs = [
            mapping(one).get("OutputName")
            for one in sequence(pick(step.arguments, "ProcessingOutputConfig", "Outputs"))
        ]
        seen: set[Any] = set()
        for index, file in enumerate(declared):
            path = f"{step.path}.PropertyFiles[{index}]"
            wanted = ("PropertyFileName", "OutputName", "FilePath")
            if not isinstance(file, Mapping) or any(
                not isinstance(file.get(key), str) or not file[key] for key in wanted
            ):
                yield error(path, f"texts {', '.join(wanted)} are needed, given {quoted(file)}")
                continue
            yield from unknown_keys(file, wanted, path)
            if file["OutputName"] not in outputs:
                told = did_you_mean(file["OutputName"], [name for name in outputs if isinstance(name, str)])
                yield error(f"{path}.OutputName", f"the step has no output {file['OutputName']!r}: {told}")
            elif is_ours(step) and file["OutputName"] == "metrics" and file["FilePath"] != "metrics.json":
                yield error(f"{path}.FilePath", f"our steps write metrics.json, given {quoted(file['FilePath'])}")
            if file["PropertyFileName"] in seen:
                yield error(f"{path}.PropertyFileName", f"{file['PropertyFileName']!r} is declared twice: rename one")
            seen.add(file["PropertyFileName"])
