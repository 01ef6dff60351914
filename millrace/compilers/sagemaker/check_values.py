"""Rules on values that only a run knows: what they refer to exists, and has the type that the field has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_metrics import metrics_of
from millrace.compilers.sagemaker.check_properties import Kind, Problem, property_kind
from millrace.compilers.sagemaker.view import StepView, View, error, mapping, quoted, sequence, unknown_keys
from millrace.compilers.sagemaker.walk import is_variable
from millrace.errors import did_you_mean

__all__ = ["EXECUTION", "Kind", "constant", "kind_of_value", "references", "shortest", "variables"]

EXECUTION = (
    "CurrentDateTime",
    "PipelineArn",
    "PipelineExecutionArn",
    "PipelineExecutionId",
    "PipelineName",
    "ProcessingJobName",
    "StartDateTime",
    "TrainingJobName",
)
"""Names below `Execution.`."""
_PARAMETERS: Mapping[str, Kind] = {"String": "string", "Integer": "integer", "Float": "float", "Boolean": "boolean"}
_STEP = re.compile(r"Steps\.(?P<step>[A-Za-z0-9_-]+)(?P<rest>[.\[].*)?", re.DOTALL)
_FILE = re.compile(r"\.PropertyFiles\.(?P<file>.+)", re.DOTALL)


def kind_of_value(view: View, value: Mapping[str, Any]) -> Kind:
    """The type that a value has at run time, as far as it is known."""
    if "Std:Join" in value:
        return "string"
    reference = value.get("Get")
    if not isinstance(reference, str):
        return "any"
    if reference.startswith("Execution."):
        return "string"
    if reference.startswith("Parameters."):
        return _PARAMETERS.get(str(mapping(view.parameters.get(reference[11:])).get("Type", "")), "any")
    found = _STEP.fullmatch(reference)
    if found is None or found["step"] not in view.steps:
        return "any"
    kind = property_kind(view.steps[found["step"]], found["rest"] or "")
    return "any" if isinstance(kind, Problem) else kind  # `variables` tells it


def shortest(value: Any) -> int:
    """How long a text is at least."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, bool):
        return 4
    if isinstance(value, int | float):
        return len(str(value))
    if isinstance(value, Mapping) and "Std:Join" in value:
        inside = mapping(value["Std:Join"])
        values, on = sequence(inside.get("Values")), inside.get("On", "")
        return sum(map(shortest, values)) + (len(on) if isinstance(on, str) else 0) * max(0, len(values) - 1)
    return 0


def constant(value: Any) -> str | None:
    """The text that a Std:Join of known values makes; None for any other value."""
    inside = mapping(value.get("Std:Join")) if isinstance(value, Mapping) else {}
    values, on = sequence(inside.get("Values")), inside.get("On", "")
    return on.join(values) if values and all(isinstance(one, str) for one in (on, *values)) else None


def references(value: Any) -> Iterator[str]:
    """Names of all steps that a value refers to."""
    if isinstance(value, Mapping):
        reference = value.get("Get")
        if isinstance(reference, str) and (found := _STEP.fullmatch(reference)):
            yield found["step"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def variables(view: View, value: Any, path: str, scope: Literal["step", "pipeline"] = "step") -> Iterator[Finding]:
    """Each variable below a value is well formed, and what it refers to exists."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from variables(view, item, f"{path}[{index}]", scope)
    elif isinstance(value, Mapping) and not is_variable(value):
        for name, item in value.items():
            yield from variables(view, item, f"{path}.{name}", scope)
    elif isinstance(value, Mapping):
        ((function, inside),) = value.items()
        if function == "Get":
            yield from _get(view, inside, path, scope)
        elif function == "Std:Join":
            yield from _join(view, inside, path, scope)
        else:
            yield from _json_get(view, inside, path, scope)


def _get(view: View, reference: Any, path: str, scope: str) -> Iterator[Finding]:
    if not isinstance(reference, str):
        yield error(path, f"Get takes a text such as 'Parameters.NAME', given {quoted(reference)}")
    elif reference.startswith("Execution."):
        if reference[10:] not in EXECUTION:
            told = did_you_mean(reference[10:], EXECUTION)
            yield error(path, f"unknown execution variable {reference!r}: {told}")
    elif reference.startswith("Parameters."):
        if reference[11:] not in view.parameters:
            told = did_you_mean(reference[11:], view.parameters)
            yield error(path, f"there is no parameter {reference[11:]!r}: {told}; or declare it under Parameters")
    elif scope == "pipeline":
        yield error(path, f"{reference!r} can't be known here: take Parameters.NAME or Execution.NAME")
    elif reference.startswith(("ForEach.", "IterationOutput.")):
        return
    elif found := _STEP.fullmatch(reference):
        yield from _property(view, found["step"], found["rest"] or "", reference, path)
    else:
        forms = "Parameters.NAME, Execution.NAME, Steps.NAME.PROPERTY"
        yield error(path, f"{reference!r} refers to nothing: a Get takes {forms}")


def _property(view: View, name: str, rest: str, reference: str, path: str) -> Iterator[Finding]:
    if name not in view.steps:
        yield error(path, f"{reference!r}: there is no step {name!r}: {did_you_mean(name, view.steps)}")
        return
    if _FILE.fullmatch(rest):
        yield error(path, f"{reference!r} is a file: read a value of it by Std:JsonGet")
        return
    kind = property_kind(view.steps[name], rest)
    if isinstance(kind, Problem):
        yield error(path, f"{reference!r}: {kind.message}")


def _join(view: View, inside: Any, path: str, scope: str) -> Iterator[Finding]:
    if not isinstance(inside, Mapping) or not isinstance(inside.get("Values"), list):
        yield error(path, f"Std:Join takes {{'On': TEXT, 'Values': [...]}}, given {quoted(inside)}")
        return
    if not isinstance(inside.get("On", ""), str):
        yield error(path, f"Std:Join: On is a text, given {quoted(inside['On'])}")
    yield from unknown_keys(inside, ("On", "Values"), f"{path}.Std:Join")
    if not inside["Values"]:
        yield error(path, "Std:Join: Values is empty: give at least one")
    for index, item in enumerate(inside["Values"]):
        below = f"{path}.Std:Join.Values[{index}]"
        if isinstance(item, list) or item is None or (isinstance(item, Mapping) and not is_variable(item)):
            yield error(below, f"a text, a number or a variable is joined, not {quoted(item)}")
        elif isinstance(item, Mapping):
            yield from variables(view, item, below, "pipeline" if scope == "pipeline" else "step")
            kind = kind_of_value(view, item)
            if kind in ("structure", "list", "map"):
                yield error(below, f"{quoted(item)} is a {kind}: only texts and numbers can be joined")


def _json_get(view: View, inside: Any, path: str, scope: str) -> Iterator[Finding]:
    form = "{'PropertyFile': {'Get': 'Steps.NAME.PropertyFiles.FILE'}, 'Path': PATH}"
    if not isinstance(inside, Mapping) or ("PropertyFile" in inside) == ("S3Uri" in inside):
        yield error(path, f"Std:JsonGet takes {form}, given {quoted(inside)}")
        return
    yield from unknown_keys(inside, ("PropertyFile", "S3Uri", "Path"), f"{path}.Std:JsonGet")
    where = inside.get("Path")
    if not isinstance(where, str) or not where:
        yield error(f"{path}.Std:JsonGet.Path", f"the path of a value in the file is needed, given {quoted(where)}")
        return
    if "S3Uri" in inside:
        yield from variables(view, inside["S3Uri"], f"{path}.Std:JsonGet.S3Uri")
        return
    reference = inside["PropertyFile"]
    reference = reference.get("Get") if isinstance(reference, Mapping) else None
    found = _STEP.fullmatch(reference) if isinstance(reference, str) else None
    file = _FILE.fullmatch(found["rest"] or "") if found else None
    if found is None or file is None or scope == "pipeline":
        yield error(path, f"Std:JsonGet takes {form}, given {quoted(inside['PropertyFile'])}")
    elif found["step"] not in view.steps:
        told = did_you_mean(found["step"], view.steps)
        yield error(path, f"{reference!r}: there is no step {found['step']!r}: {told}")
    else:
        yield from _in_file(view.steps[found["step"]], file["file"], where, path)


def _in_file(step: StepView, file: str, where: str, path: str) -> Iterator[Finding]:
    listed = [mapping(one) for one in sequence(step.data.get("PropertyFiles"))]
    files = {name: one for one in listed if isinstance(name := one.get("PropertyFileName"), str)}
    if file not in files:
        told = did_you_mean(file, files) if files else "it declares none under PropertyFiles"
        yield error(path, f"step {step.name!r} has no property file {file!r}: {told}")
        return
    metrics = metrics_of(step, files[file])
    if metrics is not None and where not in metrics:
        told = did_you_mean(where, metrics)
        yield error(f"{path}.Std:JsonGet.Path", f"step {step.name!r} writes no metric {where!r}: {told}")
