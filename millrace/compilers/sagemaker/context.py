"""What every part of the compiler knows of the pipeline that it works on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from millrace.compilers.images import reference
from millrace.compilers.sagemaker.expressions import Expression, Step, get, join, parameter
from millrace.compilers.sagemaker.jobs import job_settings, kind_of
from millrace.compilers.sagemaker.machines import Kind as Machine
from millrace.compilers.sagemaker.machines import choose, has_local_storage
from millrace.compilers.sagemaker.names import parameter_names, step_name
from millrace.compilers.sagemaker.places import in_execution, in_pipeline
from millrace.compilers.sagemaker.processing import processing_step
from millrace.errors import UnsupportedError
from millrace.runtime.sagemaker.training import model_port
from millrace.specs import ComponentSpec, PipelineSpec, RuntimeParameter, Task, TaskOutput
from millrace.specs.uncached import is_uncached
from millrace.targets.sagemaker import JobSettings, SageMaker

__all__ = ["Compiling", "Made"]

_MOST_RETRIES = 20
_STEP_FAULTS = ("Step.SERVICE_FAULT", "Step.THROTTLING")
_JOB_FAULTS = ("SageMaker.JOB_INTERNAL_ERROR", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT")
_JOB_WAIT = 30
"""Seconds before another job is asked for, at the least: machines are not there again at once."""


class Made(NamedTuple):
    """An artifact that a task makes."""

    uri: Expression
    """A folder, or the archive that it lies in."""
    archive: str | None = None
    """Folder inside the archive; None where it is in none."""


@dataclass(frozen=True)
class Compiling:
    """A pipeline while it is compiled.

    `Expression` is a text, or what SageMaker fills in when the pipeline runs (`{"Get": ...}`, `{"Std:Join": ...}`).
    """

    spec: PipelineSpec
    target: SageMaker
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names of the definition's parameters by the dotted names of runtime parameters."""

    @classmethod
    def of(cls, spec: PipelineSpec, target: SageMaker) -> Compiling:
        """The pipeline with its names decided.

        Raises:
            ConfigError: Where two parameters would have one name.
        """
        return cls(spec, target, parameter_names(spec, target))

    @property
    def role(self) -> Expression:
        """ARN of the role of all jobs."""
        return parameter("role") if self.target.role is None else self.target.role

    @property
    def tags(self) -> list[dict[str, str]]:
        """Tags of all that is made; empty when there are none."""
        return [{"Key": key, "Value": value} for key, value in sorted(self.target.tags.items())]

    @property
    def vpc(self) -> dict[str, list[str]] | None:
        """The VpcConfig of jobs and models; None for SageMaker's own network."""
        network = self.target.network
        if not network.subnets:
            return None
        return {"SecurityGroupIds": list(network.security_groups), "Subnets": list(network.subnets)}

    def in_pipeline(self, *below: Expression) -> Expression:
        """A place that all executions of the pipeline share: `s3://BUCKET/PREFIX/PIPELINE/...`."""
        return in_pipeline(self.spec, self.target, *below)

    def in_execution(self, *below: Expression) -> Expression:
        """A place of one execution: `s3://BUCKET/PREFIX/PIPELINE/EXECUTION_ID/...`."""
        return in_execution(self.spec, self.target, *below)

    def component(self, task: Task) -> ComponentSpec:
        """The component that a task uses."""
        return self.spec.component_of(task)

    def kind(self, task: Task) -> Literal["processing", "training", "tuning", "serving", "transform"]:
        """What a task's work is handed to."""
        return kind_of(task, self.component(task), self.target)

    def image(self, task: Task) -> str:
        """Full reference of a task's image."""
        return reference(self.component(task).image, self.target.images)

    def job(self, task: Task) -> JobSettings:
        """The settings of a task's job: those of all jobs, and its own over them."""
        return job_settings(task.name, self.target)

    def instance(self, task: Task, machine: Machine = "processing") -> str:
        """Machine type of a task's job: the one that was named, or the cheapest that holds the task.

        Raises:
            UnsupportedError: When none holds it.
        """
        named = self.job(task).instance
        if named is not None:
            return named
        try:
            return choose(task.resources, machine)
        except UnsupportedError as error:
            raise UnsupportedError(f"tasks.{task.name}.resources: {error}") from error

    def volume_gib(self, task: Task) -> int:
        """Size of the volume of a task's machine."""
        return self.job(task).volume_gib or task.resources.disk_gib

    def volume_key(self, *instances: str) -> str | None:
        """The key of the volumes of machines of some types; None for those with storage of their own.

        Raises:
            UnsupportedError: Where only some of them take a key.
        """
        key, local = self.target.volume_key, [one for one in instances if has_local_storage(one)]
        if key is None or not local:
            return key
        if len(local) == len(instances):
            return None
        others = sorted(set(instances) - set(local))
        raise UnsupportedError(
            f"target.volume_key: {local[0]} has storage of its own, which its hardware encrypts and which takes no "
            f"key, and {others[0]} beside it has a volume, which would have none: take machines of one sort"
        )

    def seconds(self, task: Task) -> int:
        """How long a task's job may run."""
        return math.ceil((self.job(task).timeout_minutes or task.resources.timeout_minutes) * 60)

    def opened(self, task: Task) -> list[tuple[str, RuntimeParameter]]:
        """The dotted parameters of a task that stay open, each with the runtime parameter that fills it."""
        return [
            (place.path, one) for one in self.spec.runtime_parameters for place in one.fills if place.task == task.name
        ]

    def open_value(self, one: RuntimeParameter) -> Expression:
        """The value of a runtime parameter, of its own type."""
        return parameter(self.parameters[one.name])

    def output_uri(self, task: Task, port: str) -> Expression:
        """Where a task's job writes an output to."""
        return self.in_execution(task.name, port)

    def made(self, output: TaskOutput) -> Made:
        """An output where it is read: of the execution that made it, which may be an earlier one.

        Raises:
            UnsupportedError: For what the service that did the work leaves in no file.
        """
        task = self.spec.task(output.task)
        kind, step = self.kind(task), f"Steps.{step_name(task.name)}"
        if kind == "tuning":
            raise UnsupportedError(
                f"tasks.{task.name}: SageMaker's tuning job leaves no artifact {output.port!r}, only best values for a "
                "training. Search in the step's own machine, target.tuning.kind=task, or read nothing else of it"
            )
        if kind == "training":
            return self._trained(task, output.port, step)
        if kind == "transform":
            return Made(get(f"{step}.TransformOutput.S3OutputPath"))
        uri = get(f"{step}.ProcessingOutputConfig.Outputs['{output.port}'].S3Output.S3Uri")
        siblings = [port.name for port in self.component(task).outputs if port.name != output.port]
        # an input is all that begins with its URI
        return Made(join("", uri, "/") if any(name.startswith(output.port) for name in siblings) else uri)

    def _trained(self, task: Task, port: str, step: str) -> Made:
        packed = self.target.training.compression == "gzip"
        if port == model_port(self.component(task)):
            return Made(get(f"{step}.ModelArtifacts.S3ModelArtifacts"), "." if packed else None)
        folder = (get(f"{step}.OutputDataConfig.S3OutputPath"), get(f"{step}.TrainingJobName"), "output")
        return Made(join("/", *folder, "output.tar.gz"), port) if packed else Made(join("/", *folder, "data", port))

    def depends_on(self, task: Task, *others: str) -> dict[str, list[str]]:
        """The step's DependsOn, for tasks of which nothing is read; empty when there are none."""
        names = [*(step_name(name) for name in task.after), *others]
        return {"DependsOn": list(dict.fromkeys(names))} if names else {}

    def cache(self, task: Task) -> dict[str, Any]:
        """The step's CacheConfig."""
        chosen = self.job(task).cache
        wanted = task.cache and (self.target.cache if chosen is None else chosen)
        if not wanted or is_uncached(task, self.component(task), [path for path, _ in self.opened(task)]):
            return {}
        return {"CacheConfig": {"Enabled": True, "ExpireAfter": f"P{self.target.cache_days}D"}}

    def retries(self, task: Task, *, job: bool = True) -> dict[str, Any]:
        """The step's RetryPolicies.

        Args:
            task: The task.
            job: Whether the step starts a job; others know the service's own faults only.

        Raises:
            UnsupportedError: For more attempts than the service takes.
        """
        chosen = self.job(task).retries
        limit = task.retries.limit if chosen is None else chosen
        if limit > _MOST_RETRIES:
            raise UnsupportedError(
                f"tasks.{task.name}.retries.limit={limit}: SageMaker tries a step again {_MOST_RETRIES} times at "
                f"most: target.tasks.{task.name}.retries={_MOST_RETRIES}"
            )
        if limit == 0:
            return {}
        wait = max(1, math.ceil(task.retries.backoff_seconds))
        policies = [(_STEP_FAULTS, wait), *([(_JOB_FAULTS, max(wait, _JOB_WAIT))] if job else [])]
        return {
            "RetryPolicies": [
                {
                    "ExceptionType": list(faults),
                    "IntervalSeconds": seconds,
                    "BackoffRate": task.retries.factor,
                    "MaxAttempts": limit,
                }
                for faults, seconds in policies
            ]
        }

    def processing_step(
        self, task: Task, *, arguments: Iterable[Expression] = (), depends_on: Iterable[str] = ()
    ) -> Step:
        """A Processing step that runs the task's component.

        Args:
            task: The task; its step has the task's own name.
            arguments: Further arguments of the container: `--endpoint` and its JSON text in `chunks`.
            depends_on: Steps to wait for, beside those of tasks that are read or named.
        """
        return processing_step(task, self, arguments=tuple(arguments), depends_on=tuple(depends_on))
