"""From the models that component authors write to ports and metrics as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, PydanticUserError

from millrace.errors import CompositionError
from millrace.specs.artifacts import Artifact, Metrics
from millrace.specs.component import Inputs, MetricSpec, Outputs, Parameters, Port
from millrace.specs.references import Metric

__all__ = ["input_ports", "output_handles", "output_ports", "parameters_schema", "reported_metrics"]


def input_ports(inputs: Callable[..., Inputs]) -> tuple[Port, ...]:
    """The ports of an `Inputs` model.

    Raises:
        CompositionError: When it is none, or a field is no artifact.
    """
    if not (isinstance(inputs, type) and issubclass(inputs, Inputs)):
        raise CompositionError(f"inputs must be a subclass of Inputs, given {inputs!r}")
    ports = []
    for name, info in inputs.model_fields.items():
        if name in ("self", "parameters"):
            raise CompositionError(
                f"an input can't be called {name!r}: a component's call has an argument of that name"
            )
        arguments, origin = get_args(info.annotation), get_origin(info.annotation)
        many = origin is tuple and arguments[1:] == (Ellipsis,)
        kinds = [item for item in arguments if item not in (NoneType, Ellipsis)] or [info.annotation]
        kind = kinds[0]
        known = many or origin in (None, Union, UnionType)
        if not known or len(kinds) != 1 or not (isinstance(kind, type) and issubclass(kind, Artifact)):
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


def output_handles(outputs: object) -> dict[str, type[Artifact] | type[Metric]]:
    """The types of an `Outputs` model's fields, by name.

    Raises:
        CompositionError: When a field is neither an artifact nor a metric.
    """
    if not (isinstance(outputs, type) and issubclass(outputs, Outputs)):
        raise CompositionError(f"outputs must be a subclass of Outputs, given {outputs!r}")
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
    """The metrics of an `Outputs` model.

    Raises:
        CompositionError: When there is no place where they are written.
    """
    handles = output_handles(outputs)
    metrics = [name for name, kind in handles.items() if issubclass(kind, Metric)]
    if metrics and not issubclass(handles.get("metrics", Metric), Metrics):
        raise CompositionError("it reports metrics and so needs an output `metrics: Metrics`")
    return tuple(MetricSpec(name=name, description=outputs.model_fields[name].description or "") for name in metrics)


def parameters_schema(parameters: object, uncached_when: tuple[str, ...]) -> dict[str, JsonValue]:
    """The JSON schema of a `Parameters` model.

    Raises:
        CompositionError: When it is none, or holds what can't be written down and read again.
    """
    if not (isinstance(parameters, type) and issubclass(parameters, Parameters)):
        raise CompositionError(f"parameters must be a subclass of Parameters, given {parameters!r}")
    unknown = [item for item in uncached_when if not _is_field([parameters], item)]
    if unknown:
        raise CompositionError(f"uncached_when names unknown parameters {unknown}")
    try:
        schema: dict[str, JsonValue] = parameters.model_json_schema()
    except PydanticUserError as error:
        raise CompositionError(f"a parameter has no JSON form: {error.message}") from error
    for name, item in _fields(schema, parameters.__name__):
        if item.get("writeOnly"):
            raise CompositionError(
                f"parameter {name} is a secret: parameters are recorded in run.json and reports. Leave it to the "
                "environment of the worker and read it in `main`"
            )
        if item.get("uniqueItems"):
            raise CompositionError(f"parameter {name} is a set, which has no order to be recorded in: use a tuple")
    return schema


def _is_field(models: Sequence[object], dotted: str) -> bool:
    """Whether a dotted name is a field of one of some models, or may be in a mapping that is one."""
    head, _, rest = dotted.partition(".")
    fields = [
        found
        for model in models
        if isinstance(model, type) and issubclass(model, BaseModel) and (found := model.model_fields.get(head))
    ]
    return bool(fields) and (
        not rest or any(_is_mapping(field.annotation) or _is_field(_parts(field.annotation), rest) for field in fields)
    )


def _is_mapping(annotation: object) -> bool:
    return isinstance(origin := get_origin(annotation), type) and issubclass(origin, Mapping)


def _parts(annotation: object) -> list[object]:
    """The members of a union, or what is none."""
    members = get_args(annotation)
    return [part for member in members for part in _parts(member)] if members else [annotation]


def _fields(schema: JsonValue, name: str) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """All nodes of a JSON schema with the `Model.field` that they belong to."""
    if isinstance(schema, list):
        for item in schema:
            yield from _fields(item, name)
    elif isinstance(schema, dict):
        yield name, schema
        for key, item in schema.items():
            if key in ("properties", "$defs") and isinstance(item, dict):
                for below, value in item.items():
                    yield from _fields(value, f"{name.partition('.')[0]}.{below}" if key == "properties" else below)
            elif key != "default":
                yield from _fields(item, name)
