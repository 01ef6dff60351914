"""What components refuse while compiling: data that nobody names, and work that a service of the target can't do."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from millrace.errors import ConfigError, UserError
from millrace.specs import ComponentSpec, Distribution, PipelineSpec, Task
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork, Transform

__all__ = ["Work", "check_sources", "check_work"]

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
