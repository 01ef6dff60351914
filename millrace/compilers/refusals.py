"""What components refuse while compiling: data that nobody names, and work that a service of the target can't do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from millrace.errors import ConfigError, UnsupportedError, UserError
from millrace.specs import ComponentSpec, Distribution, PipelineSpec, Task
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork, Transform

__all__ = ["LOCAL", "Work", "check_earlier", "check_mounted", "check_sources", "check_work", "locations"]

LOCAL = re.compile(r"(file:|[./~\\]|[A-Za-z]:[\\/])")
"""How paths of one machine begin."""
_EARLIER = "run:"

Work = ClusterWork | EndpointWork | Transform | Distribution
"""What is handed over, by the service that it is handed to; a training job is told its hosts."""


def check_sources(spec: PipelineSpec) -> None:
    """Refuse tasks without the data that they read: parameters whose schema says `or_input`, or that input.

    Raises:
        ConfigError: With the parameter's path.
    """
    opened = {(item.task, item.path) for parameter in spec.runtime_parameters for item in parameter.fills}
    for task in spec.tasks:
        fields: Any = spec.component_of(task).parameters.get("properties", {})
        for name, field in fields.items():
            port = field.get("or_input")
            if port is None or port in task.inputs or (task.name, name) in opened:
                continue
            if task.parameters.get(name) is None:
                raise ConfigError(
                    f"{task.name} needs its parameter {name} or its input {port}: set {task.name}.{name} to "
                    "s3://bucket/prefix"
                )


def check_work(task: Task, component: ComponentSpec, work: Work) -> None:
    """Let a component refuse what the service that it hands its work to can't do.

    Raises:
        UserError: With the parameter's path.
    """
    if component.refuses is None:
        return
    module, _, function = component.refuses.partition(":")
    try:
        getattr(import_module(module), function)(task.parameters, frozenset(task.inputs), work)
    except UserError as error:
        raise type(error)(f"{task.name}.{error}") from error


def locations(component: ComponentSpec, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted names and values of the parameters whose schema has the format `location`, nested ones included.

    Args:
        component: With the schema.
        values: Parameters.
    """
    schema: Any = component.parameters
    yield from dict.fromkeys(_locations(schema, schema.get("$defs", {}), values, ""))


def _locations(schema: Mapping[str, Any], known: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[str, str]]:
    if "$ref" in schema:
        yield from _locations(known[schema["$ref"].rpartition("/")[2]], known, value, path)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _locations(branch, known, value, path)
    if schema.get("format") == "location" and isinstance(value, str):
        yield path, value
    if isinstance(value, Mapping):
        for name, field in schema.get("properties", {}).items():
            yield from _locations(field, known, value.get(name), f"{path}.{name}".removeprefix("."))


def check_earlier(task: str, component: ComponentSpec, values: Mapping[str, Any]) -> None:
    """Refuse artifacts of earlier local runs, which no other machine knows.

    Raises:
        ConfigError: With the parameter's path.
    """
    pinned = "training" in component.delegates
    for name, value in locations(component, values):
        if value.startswith(_EARLIER):
            raise ConfigError(
                f"{task}.{name}={value}: only the local runner knows earlier runs: upload "
                f"{'the model and give its URI, and its digest as sha256' if pinned else 'the folder and give its URI'}"
            )


def check_mounted(task: str, component: ComponentSpec, values: Mapping[str, Any], mounts: Sequence[str]) -> None:
    """Refuse paths of this machine that no pod has.

    Args:
        task: Its name.
        component: Its component.
        values: Its parameters.
        mounts: Folders that its pod gets.

    Raises:
        UnsupportedError: With the parameter's path.
    """
    for name, value in locations(component, values):
        place = value.removeprefix("file://")
        below = any(f"{place}/".startswith(f"{mount.rstrip('/')}/") for mount in mounts)
        if not below and not value.startswith("arn:") and (LOCAL.match(value) or "://" not in value):
            raise UnsupportedError(
                f"{task}.{name}={value}: a path of this machine, which no pod has: upload it and give "
                f"{task}.{name}=s3://BUCKET/KEY and its digest as sha256, or mount it "
                f"(target.tasks.{task.partition('.')[0]}.volume_claims)"
            )
