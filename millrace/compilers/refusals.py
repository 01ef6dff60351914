"""What a component's own checks say about work that is handed to a service of the target."""

from __future__ import annotations

from importlib import import_module

from millrace.errors import UserError
from millrace.specs import ComponentSpec, Distribution, Task
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork, Transform

__all__ = ["Work", "check_work"]

Work = ClusterWork | EndpointWork | Transform | Distribution
"""What is handed over, by the service that it is handed to; a training job is told its hosts."""


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
