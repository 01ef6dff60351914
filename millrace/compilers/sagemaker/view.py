"""A definition as the rules of the check see it: steps and parameters by name, values that may be of any type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.walk import is_variable
from millrace.errors import did_you_mean

__all__ = [
    "BRANCHES",
    "StepView",
    "View",
    "branch_steps",
    "error",
    "gather",
    "is_ours",
    "literal",
    "mapping",
    "number",
    "pick",
    "quoted",
    "sequence",
    "text",
    "unknown_keys",
    "warning",
]

BRANCHES = ("IfSteps", "ElseSteps")


@dataclass(frozen=True)
class StepView:
    """A step, wherever it stands."""

    name: str
    kind: str
    """Its Type."""
    path: str
    """`Steps.NAME`, or with an index where it has no name of its own."""
    data: Mapping[str, Any]
    inside: tuple[tuple[str, str], ...] = ()
    """Conditions and branches that it stands in, outermost first."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Its Arguments; empty when they are no mapping."""
        return mapping(self.data.get("Arguments"))

    def at(self, *names: str) -> str:
        """The path of a field below Arguments."""
        return ".".join((self.path, "Arguments", *names))


@dataclass
class View:
    """A definition whose outermost structure is sound."""

    document: Mapping[str, Any]
    parameters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    listed: list[StepView] = field(default_factory=list)
    """All steps, in order, nested ones after their condition."""
    steps: dict[str, StepView] = field(default_factory=dict)
    """By name; of those with one name, the first."""

    def of_kind(self, *kinds: str) -> Iterator[StepView]:
        """Steps of some types."""
        return (step for step in self.listed if step.kind in kinds)


def gather(document: Mapping[str, Any]) -> View:
    """Parameters and steps of a definition; what has not the form of one is left out."""
    view = View(document)
    for parameter in sequence(document.get("Parameters")):
        name = mapping(parameter).get("Name")
        if isinstance(name, str):
            view.parameters.setdefault(name, parameter)
    _gather(view, sequence(document.get("Steps")), "Steps", ())
    return view


def _gather(view: View, steps: Sequence[Any], where: str, inside: tuple[tuple[str, str], ...]) -> None:
    for index, data in enumerate(steps):
        if not isinstance(data, Mapping):
            continue
        name = data.get("Name")
        named = isinstance(name, str) and name and name not in view.steps
        path = f"Steps.{name}" if named else f"{where}[{index}]"
        kind = data.get("Type")
        step = StepView(
            name if isinstance(name, str) else "", kind if isinstance(kind, str) else "", path, data, inside
        )
        view.listed.append(step)
        if named:
            view.steps[step.name] = step
        for branch in branch_steps(step):
            below = sequence(step.arguments.get(branch))
            _gather(view, below, step.at(branch), (*inside, (step.name, branch)))


def branch_steps(step: StepView) -> tuple[str, ...]:
    """Names of the fields of a step's Arguments that hold further steps."""
    return BRANCHES if step.kind == "Condition" else ()


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping with fields of its own, else an empty one."""
    return value if isinstance(value, Mapping) and not is_variable(value) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def pick(value: Any, *names: str) -> Any:
    """A value below others; None when there is none."""
    for name in names:
        value = mapping(value).get(name)
    return value


def is_ours(step: StepView) -> bool:
    """Whether a processing step runs a component of ours."""
    return sequence(pick(step.arguments, "AppSpecification", "ContainerEntrypoint")) == ["millrace", "exec"]


def literal(value: Any) -> bool:
    """Whether a value is known before the pipeline runs."""
    return isinstance(value, str | int | float)


def number(value: Any) -> float | None:
    """The value if it is a number that is known and of a size that can be calculated with, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return value if good else None


def text(value: Any) -> str | None:
    """The value if it is a text that is known, else None."""
    return value if isinstance(value, str) else None


def quoted(value: Any, longest: int = 60) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= longest else f"{shown[: longest - 4]}...{shown[-1]}"


def unknown_keys(given: Mapping[str, Any], allowed: Iterable[str], path: str) -> Iterator[Finding]:
    """Keys of a mapping that are none of those that are allowed."""
    for key in sorted(given.keys() - set(allowed)):
        yield error(f"{path}.{key}", f"unknown key: {did_you_mean(key, allowed)}")


def error(path: str, message: str) -> Finding:
    """What SageMaker refuses."""
    return Finding("error", path, message)


def warning(path: str, message: str) -> Finding:
    """What it takes, and what is likely not meant."""
    return Finding("warning", path, message)
