"""What a training job is given: in a step of its own, and as the trials of a tuning job."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from millrace.compilers.images import reference
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import Expression, as_text
from millrace.errors import UnsupportedError
from millrace.runtime.sagemaker.hyperparameters import encode
from millrace.runtime.sagemaker.training import ARCHIVES, COMPONENT, PROCESSES, TASK, TEXTS
from millrace.specs import ComponentSpec, RuntimeParameter, Task, TaskOutput

__all__ = [
    "TrainingJob",
    "algorithm",
    "channels",
    "check_hyperparameters",
    "environment",
    "hyperparameters",
    "job_fields",
    "metric_definition",
]

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_MOST_HYPERPARAMETERS = 100
_LONGEST_KEY = 256
_LONGEST_HYPERPARAMETER = 2500
_LONGEST_ENVIRONMENT = 512
_MOST_CHANNELS = 20
_LONGEST_CHANNEL = 64
_MOST_METRICS = 40
_LONGEST_REGEX = 500


@dataclass(frozen=True)
class TrainingJob:
    """A component that a training job runs, for a task."""

    task: Task
    component: ComponentSpec
    inputs: Mapping[str, tuple[TaskOutput, ...]]
    """What comes by channels."""
    most_variables: int = 100
    """In its environment."""


def job_fields(job: TrainingJob, context: Compiling) -> dict[str, Any]:
    """The fields that a training job and the trials of a tuning job have in common.

    Raises:
        UnsupportedError: For settings that can't be together, or more than the service takes.
    """
    target, training = context.target, context.target.training
    found, archives = channels(job, context)
    output: dict[str, Any] = {"S3OutputPath": context.in_execution(job.task.name)}
    if training.compression == "none":
        output["CompressionType"] = "NONE"
    if target.output_key is not None:
        output["KmsKeyId"] = target.output_key
    checkpoints = context.in_execution(job.task.name, "checkpoints")
    return {
        "RoleArn": context.role,
        **({"InputDataConfig": found} if found else {}),
        "OutputDataConfig": output,
        "ResourceConfig": _resources(job, context),
        "StoppingCondition": _stopping(job, context),
        **({"VpcConfig": context.vpc} if context.vpc else {}),
        **({"EnableNetworkIsolation": True} if target.network.isolate else {}),
        **({"EnableInterContainerTrafficEncryption": True} if target.network.encrypt else {}),
        **({"EnableManagedSpotTraining": True} if training.spot else {}),
        **({"CheckpointConfig": {"S3Uri": checkpoints, "LocalPath": "/opt/ml/checkpoints"}} if training.spot else {}),
        "Environment": environment(job, context, archives),
    }


def algorithm(job: TrainingJob, context: Compiling, definitions: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """The image, how its channels come, and the numbers that are read from its log."""
    named = {one["Name"]: dict(one) for one in definitions}
    named |= {one.name: {"Name": one.name, "Regex": one.regex} for one in context.target.training.metrics}
    if len(named) > _MOST_METRICS:
        raise UnsupportedError(
            f"tasks.{job.task.name}: {len(named)} metrics, with target.training.metrics; a training job takes "
            f"{_MOST_METRICS}"
        )
    return {
        "TrainingImage": reference(job.component.image, context.target.images),
        "TrainingInputMode": context.target.training.mode,
        **({"MetricDefinitions": list(named.values())} if named else {}),
    }


def metric_definition(name: str, intermediate: str | None = None) -> dict[str, str]:
    """How a metric is read from the log: after each epoch from the figures of validation, in the end its last value.

    The lines are `epoch=3 loss=0.2 ... validation_accuracy=0.93` and `... INFO accuracy=0.95 loss=0.1`.

    Raises:
        UnsupportedError: For a name that is too long for the service.
    """
    epoch = intermediate or f"validation_{name}"
    last, step = re.escape(name), re.escape(epoch)
    regex = rf"(?:INFO (?:\S+=\S+ )*?{last}|epoch=\d+ (?:\S+=\S+ )*?{step})={_NUMBER}"
    if len(regex) > _LONGEST_REGEX:
        raise UnsupportedError(f"metric {name!r}: its name is too long to be found in a log by SageMaker")
    return {"Name": name, "Regex": regex}


def channels(job: TrainingJob, context: Compiling) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The job's channels, and for those that come in an archive the folder inside it."""
    found, archives = [], {}
    for port in job.component.inputs:
        mode = context.target.training.channels.get(port.name)
        for number, output in enumerate(job.inputs.get(port.name, ())):
            name = f"{port.name}.{number}" if port.many else port.name
            made = context.made(output)
            if made.archive is not None:
                archives[name] = made.archive
            source = {"S3DataType": "S3Prefix", "S3Uri": made.uri, "S3DataDistributionType": "FullyReplicated"}
            channel = {"ChannelName": name, "DataSource": {"S3DataSource": source}}
            found.append({**channel, **({"InputMode": mode} if mode is not None else {})})
            _check_mode(job, name, mode or context.target.training.mode)
            if len(name) > _LONGEST_CHANNEL:
                raise UnsupportedError(f"tasks.{job.task.name}.{name}: a channel's name has 64 characters at most")
    if len(found) > _MOST_CHANNELS:
        raise UnsupportedError(
            f"tasks.{job.task.name}: {len(found)} inputs; a training job takes {_MOST_CHANNELS}: put artifacts "
            "together before it by tasks with the component `gather`, each of 10 parts at most"
        )
    return found, archives


def _check_mode(job: TrainingJob, channel: str, mode: str) -> None:
    if mode == "Pipe" and not any(sign in job.component.image for sign in "/:@"):
        raise UnsupportedError(
            f"target.training: input {channel!r} of task {job.task.name!r} can't come as Pipe: "
            "components read files, and mode=FastFile fetches them while they are read. Streams are for a full "
            "reference to an image of your own, which answers `train` itself"
        )


def environment(job: TrainingJob, context: Compiling, archives: Mapping[str, str]) -> dict[str, str]:
    """The job's variables: the contract's, and the user's own.

    Raises:
        UnsupportedError: For too many, or one that is too long.
    """
    own = context.job(job.task).environment
    ours = {
        COMPONENT: job.component.entry,
        TASK: job.task.name,
        PROCESSES: str(job.task.distribution.processes),
    }
    if archives:
        ours[ARCHIVES] = ",".join(f"{name}={folder}" for name, folder in archives.items())
    for name in own.keys() & {*ours, TEXTS, ARCHIVES}:
        raise UnsupportedError(f"target.tasks.{job.task.name}.environment.{name}: the container is told this itself")
    found = {**own, **ours}
    for name, value in found.items():
        if len(name) > _LONGEST_ENVIRONMENT or len(value) > _LONGEST_ENVIRONMENT:
            raise UnsupportedError(
                f"target.tasks.{job.task.name}.environment.{name}: {max(len(name), len(value))} characters; a training "
                f"job takes {_LONGEST_ENVIRONMENT}: put it into an input or a parameter"
            )
    if len(found) >= job.most_variables:  # one place is left for TEXTS
        raise UnsupportedError(
            f"target.tasks.{job.task.name}.environment: {len(own)} variables; with those of the container itself the "
            f"job takes {job.most_variables}"
        )
    return dict(sorted(found.items()))


def hyperparameters(
    values: Mapping[str, JsonValue], opened: Iterable[tuple[str, RuntimeParameter]], context: Compiling
) -> tuple[dict[str, Expression], list[str]]:
    """Parameters as hyperparameters, those that stay open by their dotted names; and which of these are texts."""
    found: dict[str, Expression] = {name: encode(value) for name, value in sorted(values.items())}
    texts = []
    for path, one in opened:
        value = context.open_value(one)
        found[path] = value if one.kind == "string" else as_text(value)
        if one.kind == "string":
            texts.append(path)
    return found, texts


def check_hyperparameters(task: str, prefix: str, found: Mapping[str, Expression]) -> None:
    """Refuse what is too much for a training job.

    Raises:
        UnsupportedError: With the parameter's path, and a way out.
    """
    if len(found) > _MOST_HYPERPARAMETERS:
        raise UnsupportedError(
            f"{task}: {len(found)} hyperparameters; a training job takes {_MOST_HYPERPARAMETERS}: gather parameters in "
            "groups, or leave fewer fields open"
        )
    for name, value in found.items():
        if name.startswith(("_", "sagemaker_")):
            raise UnsupportedError(f"{prefix}.{name}: hyperparameters of such names are SageMaker's own: rename it")
        if len(name) > _LONGEST_KEY:
            raise UnsupportedError(f"{prefix}.{name}: {len(name)} characters; a hyperparameter's name has 256 at most")
        if isinstance(value, str) and len(value) > _LONGEST_HYPERPARAMETER:
            raise UnsupportedError(
                f"{prefix}.{name}: {len(value)} characters as text; a hyperparameter takes {_LONGEST_HYPERPARAMETER}: "
                "put the value into an input"
            )


def _resources(job: TrainingJob, context: Compiling) -> dict[str, Any]:
    instance = context.instance(job.task, "training")
    key = context.volume_key(instance)
    return {
        "InstanceType": instance,
        "InstanceCount": job.task.distribution.hosts,
        "VolumeSizeInGB": context.volume_gib(job.task),
        **({"VolumeKmsKeyId": key} if key is not None else {}),
    }


def _stopping(job: TrainingJob, context: Compiling) -> dict[str, int]:
    training, seconds = context.target.training, context.seconds(job.task)
    if not training.spot:
        return {"MaxRuntimeInSeconds": seconds}
    wait = 2 * seconds if training.max_wait_minutes is None else math.ceil(training.max_wait_minutes * 60)
    if wait < seconds:
        raise UnsupportedError(
            f"target.training.max_wait_minutes={wait / 60:g}: shorter than task {job.task.name!r} may run "
            f"({seconds / 60:g} minutes), and it counts the run: raise it, or lower "
            f"target.tasks.{job.task.name}.timeout_minutes"
        )
    return {"MaxRuntimeInSeconds": seconds, "MaxWaitTimeInSeconds": wait}
