"""Batch inference: a model, and a transform job that asks it about every object of a folder."""

from __future__ import annotations

from typing import Any

from millrace.compilers.refusals import check_work
from millrace.compilers.sagemaker.context import Compiling, Made
from millrace.compilers.sagemaker.expressions import Expression, Step, get, join
from millrace.compilers.sagemaker.hosting import model_container, model_request, server_environment
from millrace.compilers.sagemaker.names import step_name
from millrace.errors import UnsupportedError
from millrace.runtime.limits import limit_variable
from millrace.specs import Task

__all__ = ["transform_steps"]

_MOST_IN_FLIGHT_MIB = 100
_MOST_HOSTS = 100
_OBJECTS, _MODEL, _ANSWERS = "dataset", "model", "predictions"


def transform_steps(task: Task, context: Compiling) -> list[Step]:
    """A Model step and a Transform step.

    Raises:
        UnsupportedError: For what a transform job can't do.
    """
    _check_model(task, context)
    check_work(task, context.component(task), context.target.transform)
    _check_outputs(task, context)
    environment = server_environment(task, context)
    # the largest object that the service sends is the largest body that the server takes
    environment[limit_variable("max_body_mib")] = f"{max(1, context.target.transform.payload_mib)}"
    container = model_container(
        context.image(task), context.made(task.inputs[_MODEL][0]), dict(sorted(environment.items()))
    )
    model: Step = {
        "Name": step_name(task.name, "model"),
        "Type": "Model",
        "Arguments": model_request(container, context),
        **context.depends_on(task),
        **context.retries(task, job=False),
    }
    step: Step = {
        "Name": step_name(task.name),
        "Type": "Transform",
        "Arguments": _request(task, context),
        **context.depends_on(task),
        **context.cache(task),
        **context.retries(task),
    }
    return [model, step]


def _request(task: Task, context: Compiling) -> dict[str, Any]:
    target, settings = context.target, context.target.transform
    concurrent = settings.concurrent
    if settings.payload_mib * (concurrent or 1) > _MOST_IN_FLIGHT_MIB:
        raise UnsupportedError(
            f"target.transform.concurrent={concurrent}: {concurrent} requests of target.transform.payload_mib="
            f"{settings.payload_mib} MiB are more than the {_MOST_IN_FLIGHT_MIB} MiB that a transform job may have "
            "under way: lower one of them"
        )
    shares = 1 if task.for_each is None else task.for_each.shares
    if shares > _MOST_HOSTS:
        raise UnsupportedError(f"tasks.{task.name}: {shares} shares; a transform job has {_MOST_HOSTS} hosts at most")
    objects = context.made(task.inputs[_OBJECTS][0])
    source = {"S3DataType": "S3Prefix", "S3Uri": _prefix(task, objects)}
    instance = context.instance(task, "transform")
    volume_key, output_key = context.volume_key(instance), target.output_key
    return {
        "ModelName": get(f"Steps.{step_name(task.name, 'model')}.ModelName"),
        **({"MaxConcurrentTransforms": concurrent} if concurrent is not None else {}),
        "MaxPayloadInMB": settings.payload_mib,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": source},
            # one type for all objects; the server knows a picture's format by its contents
            "ContentType": "application/x-image",
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": context.output_uri(task, _ANSWERS),
            "Accept": "application/json",
            "AssembleWith": "None",
            **({"KmsKeyId": output_key} if output_key is not None else {}),
        },
        "TransformResources": {
            "InstanceType": instance,
            "InstanceCount": shares,
            **({"VolumeKmsKeyId": volume_key} if volume_key is not None else {}),
        },
        **({"Tags": context.tags} if context.tags else {}),
    }


def _prefix(task: Task, objects: Made) -> Expression:
    if objects.archive is not None:
        raise UnsupportedError(
            f"tasks.{task.name}.inputs.{_OBJECTS}: it comes in an archive, and a transform job reads single objects: "
            "give the output of another kind of task, or set target.transform.kind=task"
        )
    uri = objects.uri
    joined = uri.get("Std:Join", {}).get("Values", ()) if isinstance(uri, dict) else ()
    return uri if joined and joined[-1] == "/" else join("", uri, "/")


def _check_model(task: Task, context: Compiling) -> None:
    """A transform job's model is an archive: SageMaker takes no ModelDataSource there.

    Raises:
        UnsupportedError: Naming the model that is none.
    """
    output = task.inputs[_MODEL][0]
    if context.made(output).archive == ".":
        return
    trained = context.kind(context.spec.task(output.task)) == "training"
    if trained and context.target.training.compression == "none":
        why, way = "it is no archive with target.training.compression=none", "take gzip"
    else:
        why, way = "it is no model.tar.gz of a training", "give the model that a training made (train.model)"
    raise UnsupportedError(
        f"tasks.{task.name}.inputs.{_MODEL}: {output}: {why}, and a transform job takes nothing else: {way}, or set "
        "target.transform.kind=task"
    )


def _check_outputs(task: Task, context: Compiling) -> None:
    """Only answers come out of a transform job.

    Raises:
        UnsupportedError: Naming the task that reads something else.
    """
    for other in context.spec.tasks:
        for outputs in other.inputs.values():
            for output in outputs:
                if output.task == task.name and output.port != _ANSWERS:
                    raise UnsupportedError(
                        f"tasks.{other.name}: it reads {output}, which a transform job does not write: set "
                        "target.transform.kind=task"
                    )
