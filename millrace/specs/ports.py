"""From the models that component authors write to ports and metrics as data."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import get_args, get_origin

from millrace.errors import CompositionError
from millrace.specs.artifacts import Artifact
from millrace.specs.component import Inputs, MetricSpec, Outputs, Port
from millrace.specs.references import Metric

__all__ = ["input_ports", "output_handles", "output_ports", "reported_metrics"]


def input_ports(inputs: Callable[..., Inputs]) -> tuple[Port, ...]:
    """The ports of an `Inputs` model.

    Raises:
        CompositionError: When it is none, or a field is no artifact.
    """
    if not (isinstance(inputs, type) and issubclass(inputs, Inputs)):
        raise CompositionError(f"inputs must be a subclass of Inputs, given {inputs!r}")
    ports = []
    for name, info in inputs.model_fields.items():
        arguments = [item for item in get_args(info.annotation) if item is not Ellipsis]
        many = get_origin(info.annotation) is tuple
        kinds = [item for item in arguments if item is not NoneType] or [info.annotation]
        kind = kinds[0]
        if len(kinds) != 1 or not (isinstance(kind, type) and issubclass(kind, Artifact)):
            raise CompositionError(
                f"input {name!r} must be an Artifact, an Artifact | None or a tuple[Artifact, ...], "
                f"not {info.annotation}"
            )
        ports.append(
            Port(
                name=name,
                artifact=kind.artifact_type(),
                description=info.description or "",
                optional=not info.is_required(),
                many=many,
            )
        )
    return tuple(ports)


def output_handles(outputs: type[Outputs]) -> dict[str, type[Artifact] | type[Metric]]:
    """The types of an `Outputs` model's fields, by name.

    Raises:
        CompositionError: When a field is neither an artifact nor a metric.
    """
    handles: dict[str, type[Artifact] | type[Metric]] = {}
    for name, info in outputs.model_fields.items():
        kind = info.annotation
        if not (isinstance(kind, type) and issubclass(kind, Artifact | Metric)):
            raise CompositionError(f"output {name!r} must be an Artifact or a Metric, not {kind}")
        handles[name] = kind
    return handles


def output_ports(outputs: type[Outputs]) -> tuple[Port, ...]:
    """The artifacts of an `Outputs` model."""
    return tuple(
        Port(name=name, artifact=kind.artifact_type(), description=outputs.model_fields[name].description or "")
        for name, kind in output_handles(outputs).items()
        if issubclass(kind, Artifact)
    )


def reported_metrics(outputs: type[Outputs]) -> tuple[MetricSpec, ...]:
    """The metrics of an `Outputs` model."""
    return tuple(
        MetricSpec(name=name, description=outputs.model_fields[name].description or "")
        for name, kind in output_handles(outputs).items()
        if issubclass(kind, Metric)
    )
