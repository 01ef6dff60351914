"""Which service does a task's work, and with which settings."""

from __future__ import annotations

from typing import Any, Literal

from millrace.specs import ComponentSpec, Task
from millrace.targets.sagemaker import JobSettings, SageMaker

__all__ = ["Kind", "job_settings", "kind_of"]

Kind = Literal["processing", "training", "tuning", "serving", "transform"]


def kind_of(task: Task, component: ComponentSpec, target: SageMaker) -> Kind:
    """The service that a task's work is handed to; processing runs the component as it is."""
    handed: dict[str, tuple[Kind, bool]] = {
        "training": ("training", True),
        "tuning": ("tuning", target.tuning.kind == "job"),
        "serving": ("serving", target.serving.kind != "none"),
        "inference": ("transform", target.transform.kind == "job"),
    }
    for service in component.delegates:
        kind, wanted = handed[service]
        if wanted:
            return kind
    return "processing"


def job_settings(task: str, target: SageMaker) -> JobSettings:
    """The settings of a task's job: those of all jobs, and its own over them."""
    own = target.tasks.get(task, JobSettings())
    values: dict[str, Any] = {name: value for name, value in own if name in own.model_fields_set and value is not None}
    values["environment"] = {**target.job.environment, **own.environment}
    return target.job.model_copy(update=values)
