"""Rules on properties of steps: a path leads to a field of what SageMaker says of the finished work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from millrace.compilers.sagemaker.shapes import Shape, answers
from millrace.compilers.sagemaker.view import StepView, mapping, pick, sequence
from millrace.errors import did_you_mean

__all__ = ["Kind", "Problem", "property_kind"]

Kind = Literal["string", "integer", "float", "boolean", "structure", "list", "map", "any"]
"""Type of a value at run time; `any` where it is not known."""
Part = str | int


class Problem(NamedTuple):
    """Why there is no such property."""

    message: str


_PARTS = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]|\['(?P<single>[^']*)'\]|\[\"(?P<double>[^\"]*)\"\]")
_KINDS: Mapping[str, Kind] = {
    "string": "string",
    "timestamp": "string",
    "integer": "integer",
    "long": "integer",
    "float": "float",
    "double": "float",
    "boolean": "boolean",
    "structure": "structure",
    "list": "list",
    "map": "map",
}
_DECLARED: Mapping[str, Kind] = {"String": "string", "Integer": "integer", "Float": "float", "Boolean": "boolean"}
_OUTCOMES: Mapping[str, tuple[str, ...]] = {"Condition": ("Outcome",), "Fail": (), "Cleanup": ()}
"""Properties of steps that SageMaker has no shape for."""
_NAMED: Mapping[tuple[str, ...], tuple[tuple[str, ...], str]] = {
    ("ProcessingInputs",): (("ProcessingInputs",), "InputName"),
    ("ProcessingOutputConfig", "Outputs"): (("ProcessingOutputConfig", "Outputs"), "OutputName"),
    ("InputDataConfig",): (("InputDataConfig",), "ChannelName"),
    ("FinalMetricDataList",): (("AlgorithmSpecification", "MetricDefinitions"), "Name"),
}
"""Lists whose items are taken by name: where the step's Arguments have them, and the field of the name."""


def property_kind(step: StepView, rest: str) -> Kind | Problem:
    """The type of a property, or why there is none."""
    parts = list(_split(rest))
    if not parts or None in parts:
        return Problem(
            f"a property of the step is needed, as in Steps.{step.name}.NAME, with [0] or ['name'] for items"
        )
    path = [part for part in parts if part is not None]
    if step.kind in _OUTCOMES and path[0] not in _OUTCOMES[step.kind]:
        allowed = _OUTCOMES[step.kind]
        return Problem(f"a {step.kind} step has no property {path[0]!r}: {did_you_mean(str(path[0]), allowed)}")
    if step.kind in ("Lambda", "Callback") and path[0] == "OutputParameters":
        return _declared(step, path)
    shapes = list(answers(step.kind))
    if not shapes:
        return "any"
    found: list[Kind | Problem] = [_field(shape, path) for shape in shapes]
    for kind in found:
        if not isinstance(kind, Problem):
            return _by_name(step, path) or kind
    return found[0]


def _split(rest: str) -> Iterator[Part | None]:
    """The parts of a path; None for what is none."""
    at = 0
    while at < len(rest):
        found = _PARTS.match(rest, at)
        if found is None:
            yield None
            return
        at = found.end()
        if found["index"] is not None:
            yield int(found["index"])
        else:
            yield next(part for part in (found["name"], found["single"], found["double"]) if part is not None)


def _field(shape: Shape, path: Sequence[Part]) -> Kind | Problem:
    """The type of the field, or why there is none."""
    passed = shape.name
    for part in path:
        if shape.type == "structure":
            if part not in shape.members:
                return Problem(f"{passed} has no field {part!r}: {did_you_mean(str(part), shape.members)}")
            shape = shape.below(str(part))
            passed += f".{part}"
        elif shape.type == "list":
            shape = shape.below("member")
        elif shape.type == "map":
            shape = shape.below("value")
        else:
            return Problem(f"{passed} is a {shape.type}: it has no {part!r}")
    return _KINDS.get(shape.type, "any")


def _declared(step: StepView, path: Sequence[Part]) -> Kind | Problem:
    """An output that a Lambda or Callback step declares."""
    listed = [mapping(one) for one in sequence(step.data.get("OutputParameters"))]
    outputs = {name: one for one in listed if isinstance(name := one.get("OutputName"), str)}
    wanted = str(path[1]) if len(path) > 1 else ""
    if len(path) != 2 or wanted not in outputs:
        return Problem(f"step {step.name!r} has no output {wanted!r}: {did_you_mean(wanted, outputs)}")
    return _DECLARED.get(str(outputs[wanted].get("OutputType", "")), "any")


def _by_name(step: StepView, path: Sequence[Part]) -> Problem | None:
    """Why the step makes no item of that name or number; None when it does, or when nobody knows."""
    for index, part in enumerate(path):
        before = tuple(str(one) for one in path[:index])
        if before in _NAMED:
            where, field = _NAMED[before]
            given = sequence(pick(step.arguments, *where))
            return _item(step, part, [mapping(one).get(field) for one in given], before[-1])
        if before[-1:] == ("TunedHyperParameters",) and step.kind == "Tuning":
            return _searched(step, str(part))
    return None


def _item(step: StepView, part: Part, names: Sequence[Any], what: str) -> Problem | None:
    if isinstance(part, int):
        if part < len(names) or what == "FinalMetricDataList":
            return None
        return Problem(f"step {step.name!r} has {len(names)} items in {what}: [{part}] is none of them")
    if part in names or (what == "FinalMetricDataList" and not names):  # an algorithm of SageMaker's has its own
        return None
    known = [name for name in names if isinstance(name, str)]
    made = {"FinalMetricDataList": "defines no metric", "Outputs": "has no output", "InputDataConfig": "has no channel"}
    told = did_you_mean(part, known)
    return Problem(f"step {step.name!r} {made.get(what, 'has no input')} {part!r}: {told}")


def _searched(step: StepView, name: str) -> Problem | None:
    """Why a tuning job has no best value of that name."""
    ranges = [pick(step.arguments, "HyperParameterTuningJobConfig", "ParameterRanges")]
    definitions = [
        pick(step.arguments, "TrainingJobDefinition"),
        *sequence(pick(step.arguments, "TrainingJobDefinitions")),
    ]
    ranges += [pick(definition, "HyperParameterRanges") for definition in definitions]
    if pick(step.arguments, "Autotune") is not None or any(pick(one, "AutoParameters") for one in ranges):
        return None
    names = [mapping(item).get("Name") for one in ranges for kind in mapping(one).values() for item in sequence(kind)]
    if name in names or name.startswith("_"):  # _tuning_objective_metric
        return None
    searched = [one for one in names if isinstance(one, str)]
    return Problem(f"step {step.name!r} searches no hyperparameter {name!r}: {did_you_mean(name, searched)}")
