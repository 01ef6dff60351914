"""What a task looks like to Kubeflow: its inputs and outputs by name and type, its image and its arguments."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Any, Literal

from pydantic import JsonValue

from millrace.errors import ConfigError
from millrace.registry import components
from millrace.specs import ComponentSpec
from millrace.specs.artifacts import ArtifactType

__all__ = [
    "OUTPUT_MARK",
    "Interface",
    "Kind",
    "Made",
    "Taken",
    "Value",
    "as_constant",
    "command",
    "container_component",
    "kfp_name",
    "made_by",
    "paths",
    "schema_of",
]

Schema = Literal["Artifact", "ClassificationMetrics", "Dataset", "HTML", "Markdown", "Metrics", "Model"]

OUTPUT_MARK = "_millrace_output"
"""Follows an output's name while kfp works on it, where an input has the same one: kfp makes both arguments of
one function. It is removed from the finished document."""

Kind = type[str] | type[int] | type[float] | type[bool]

_SCHEMAS: Mapping[str, Schema] = {
    "millrace.Dataset": "Dataset",
    "millrace.Manifest": "Dataset",
    "millrace.Records": "Dataset",
    "millrace.Shards": "Dataset",
    "millrace.Model": "Model",
    "millrace.Metrics": "Metrics",
    "millrace.Report": "HTML",
}
_GROUP = re.compile(r"(condition|condition_branches|exit_handler|for_loop)(_\d+)?")
_CHARTS = {"confusion_matrix": "Confusion matrix.", "roc": "ROC curve."}


@dataclass(frozen=True)
class Value:
    """An input parameter."""

    kind: Kind
    description: str = ""
    default: str | int | float | bool | None = None
    """None makes it required."""
    choices: tuple[str | int | float, ...] = ()


@dataclass(frozen=True)
class Taken:
    """An input artifact."""

    schema: Schema
    description: str = ""
    many: bool = False
    """A list of artifacts."""
    optional: bool = False


@dataclass(frozen=True)
class Made:
    """An output artifact; a number where it has no schema."""

    schema: Schema | None
    description: str = ""


@dataclass(frozen=True)
class Interface:
    """All that kfp needs to know of a task."""

    name: str
    image: str
    command: Sequence[str]
    arguments: Sequence[str]
    values: dict[str, Value] = field(default_factory=dict)
    taken: dict[str, Taken] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)


def command(component: ComponentSpec) -> list[str]:
    """The container's command: Kubeflow ignores the image's entry point."""
    known = _entries().get(component.name) == component.entry
    return ["millrace", "exec", component.name if known else component.entry]


@functools.cache
def _entries() -> Mapping[str, str]:
    return components()


def schema_of(artifact: ArtifactType) -> Schema:
    """Kubeflow's type for an artifact: that of the type itself or of the first known one that it stands in for."""
    for title in (artifact.title, *artifact.bases):
        if title in _SCHEMAS:
            return _SCHEMAS[title]
    return "Artifact"


def made_by(component: ComponentSpec) -> dict[str, Made]:
    """A component's outputs: its artifacts, its metrics as numbers, and what the UI draws."""
    made = {port.name: Made(schema_of(port.artifact), port.description) for port in component.outputs}
    made |= {metric.name: Made(None, metric.description) for metric in component.metrics}
    extras: dict[str, Made] = {}
    if "metrics" in made:
        extras["summary"] = Made("Markdown", "Metrics as a table.")
    extras |= {name: Made("ClassificationMetrics", _CHARTS[name]) for name in component.charts}
    return made | {name: extra for name, extra in extras.items() if name not in made}


def paths(flag: str, direction: Literal["inputs", "outputs"], names: Iterable[str]) -> list[str]:
    """Arguments that tell where artifacts are."""
    return [word for name in names for word in (flag, f"{name}={{{{$.{direction}.artifacts['{name}'].path}}}}")]


def as_constant(value: JsonValue) -> str:
    """A value as JSON text that everything between here and the container leaves as it is.

    Kubernetes makes `$` of `$$` in a pod's arguments, Argo and kfp look for `{{`: both are written as JSON escapes.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("$", "\\u0024").replace("{{", "{\\u007b")


def container_component(interface: Interface, description: str = "") -> Any:
    """The component that kfp's own decorator makes of a function with the interface's signature."""
    from kfp import dsl

    def container(*handles: object) -> Any:
        return dsl.ContainerSpec(image=interface.image, command=list(interface.command), args=list(interface.arguments))

    container.__doc__ = description
    container.__name__ = kfp_name(interface.name)
    vars(container)["__signature__"] = Signature(_arguments(interface))
    return dsl.container_component(container)


def kfp_name(name: str) -> str:
    """The name under which kfp makes a task's: groups of tasks are called condition-1, for-loop-2."""
    return f"task_{name}" if _GROUP.fullmatch(name) else name


def _arguments(interface: Interface) -> list[Parameter]:
    """The arguments of the function that kfp makes a component of.

    Raises:
        ConfigError: When two would have one name.
    """
    from kfp import dsl

    found: dict[str, Parameter] = {}
    for name, value in interface.values.items():
        default = Parameter.empty if value.default is None else value.default
        found[name] = Parameter(name, Parameter.KEYWORD_ONLY, annotation=value.kind, default=default)
    for name, taken in interface.taken.items():
        if name in found:
            raise ConfigError(
                f"tasks.{interface.name}: {name!r} is an input of its own in Kubeflow: give the component's port "
                "another name"
            )
        schema = getattr(dsl, taken.schema)
        annotation = dsl.Input[GenericAlias(list, (schema,)) if taken.many else schema]
        found[name] = Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)
        if taken.optional:
            found[name] = found[name].replace(annotation=annotation | None, default=None)
    for name, made in interface.made.items():
        marked = f"{name}{OUTPUT_MARK}" if name in found or name == "Output" else name
        annotation = dsl.Output[getattr(dsl, made.schema)] if made.schema else dsl.OutputPath(float)
        found[marked] = Parameter(marked, Parameter.KEYWORD_ONLY, annotation=annotation)
    return list(found.values())
