"""A compiled pipeline definition as steps in an order-free table, nested ones with the branch that they are in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from millrace.errors import DataError
from millrace.runners.sagemaker.expressions import references

__all__ = ["BRANCHES", "Branch", "Definition", "Dependency", "Step", "read_definition"]

Branch = Literal["IfSteps", "ElseSteps"]
Trigger = Literal["Completed", "Failed", "Stopped", "Any"]
BRANCHES: tuple[Branch, Branch] = ("IfSteps", "ElseSteps")


@dataclass(frozen=True)
class Dependency:
    """A step that must have ended before, and how."""

    step: str
    trigger: Trigger = "Completed"


@dataclass(frozen=True)
class Step:
    """One step."""

    name: str
    type: str
    path: str
    """Where it stands in the definition: `Steps[2].Arguments.IfSteps[0]`."""
    arguments: Mapping[str, Any]
    """Without the nested steps of a condition."""
    depends: tuple[Dependency, ...] = ()
    """As `DependsOn` has them."""
    property_files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Output and path of each property file by its name."""
    inside: tuple[str, Branch] | None = None
    """The condition that it is nested in, and the branch."""
    retried: bool = False
    cached: bool = False

    @property
    def needs(self) -> tuple[Dependency, ...]:
        """All steps that must have ended before: named in `DependsOn`, referred to, or its condition."""
        named = {item.step for item in self.depends}
        found = [*self.depends, *(Dependency(name) for name in sorted(references(self.arguments) - named))]
        if self.inside and self.inside[0] not in named:
            found.append(Dependency(self.inside[0]))
        return tuple(found)


@dataclass(frozen=True)
class Definition:
    """A pipeline definition."""

    parameters: tuple[Mapping[str, Any], ...]
    steps: Mapping[str, Step]
    """By name, outer ones before those in them."""


def read_definition(text: str) -> Definition:
    """Read a definition that has passed the check.

    Raises:
        DataError: When it is none.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"this is no JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("Steps"), list) or not content["Steps"]:
        raise DataError("this is no pipeline definition of SageMaker: it has no list `Steps`")
    steps: dict[str, Step] = {}
    for step in _steps(content["Steps"], "Steps", None):
        if step.name in steps:
            raise DataError(f"{step.path}: the name {step.name!r} is that of {steps[step.name].path}, too")
        steps[step.name] = step
    for step in steps.values():
        for dependency in step.needs:
            if dependency.step not in steps:
                raise DataError(f"{step.path}: step {step.name!r} needs {dependency.step!r}, which is no step")
    return Definition(tuple(content.get("Parameters") or ()), steps)


def _steps(items: list[Any], path: str, inside: tuple[str, Branch] | None) -> Iterator[Step]:
    for index, item in enumerate(items):
        place = f"{path}[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("Name"), str) or not isinstance(item.get("Type"), str):
            raise DataError(f"{place}: a step has a Name and a Type")
        arguments = item.get("Arguments") or {}
        if not isinstance(arguments, dict):
            raise DataError(f"{place}.Arguments: not a mapping")
        branches = BRANCHES if item["Type"] == "Condition" else ()
        yield Step(
            name=item["Name"],
            type=item["Type"],
            path=place,
            arguments={key: value for key, value in arguments.items() if key not in branches},
            depends=tuple(_dependency(entry, place) for entry in item.get("DependsOn") or ()),
            property_files={
                file["PropertyFileName"]: (file["OutputName"], file["FilePath"])
                for file in item.get("PropertyFiles") or ()
            },
            inside=inside,
            retried=bool(item.get("RetryPolicies")),
            cached=bool((item.get("CacheConfig") or {}).get("Enabled")),
        )
        for branch in branches:
            yield from _steps(arguments.get(branch) or [], f"{place}.Arguments.{branch}", (item["Name"], branch))


def _dependency(entry: Any, place: str) -> Dependency:
    if isinstance(entry, str):
        return Dependency(entry)
    if isinstance(entry, dict) and isinstance(entry.get("Step"), str):
        return Dependency(entry["Step"], entry.get("Trigger", "Completed"))
    raise DataError(f"{place}.DependsOn: a name of a step, or its name as `Step` with a `Trigger`")
