"""A deployment: model, endpoint configuration, endpoint, the step that checks it, and the model registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from millrace.compilers.refusals import check_work
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import EXECUTION_ID, Expression, Step, below, get, join
from millrace.compilers.sagemaker.hosting import (
    capture,
    check_names,
    check_serving,
    deployment,
    endpoint_instance,
    endpoint_name,
    endpoint_work,
    model_container,
    model_request,
    server_environment,
    variants,
)
from millrace.compilers.sagemaker.machines import choose
from millrace.compilers.sagemaker.names import step_name
from millrace.compilers.sagemaker.processing import chunks
from millrace.errors import UnsupportedError
from millrace.runtime.sagemaker.hyperparameters import as_json
from millrace.specs import Task
from millrace.targets.sagemaker import Registration

__all__ = ["serving_notes", "serving_steps"]

_NAME_MARK, _CONFIG_MARK = "@NAME@", "@CONFIG@"
_LONGEST_METADATA = 256


def serving_steps(task: Task, context: Compiling) -> list[Step]:
    """The steps of a deployment.

    Raises:
        ConfigError: For names that SageMaker does not take, or that are given twice.
        UnsupportedError: For what an endpoint of SageMaker can't do.
    """
    check_serving(task, context)
    check_work(task, context.component(task), endpoint_work(task, context, "config"))
    registration = context.target.serving.registration
    if context.target.serving.kind == "registry":
        _check_unread(task, context)
        return [] if registration is None else [_register(task, context, registration)]
    check_names(task, context)
    steps = [_model(task, context), _config(task, context), _endpoint(task, context), _check(task, context)]
    if registration is not None:
        steps.append(_register(task, context, registration, after=[step_name(task.name)]))
    return steps


def _step(task: Task, context: Compiling, suffix: str, kind: str, arguments: dict[str, Any]) -> Step:
    return {
        "Name": step_name(task.name, suffix),
        "Type": kind,
        "Arguments": arguments,
        **context.depends_on(task),
        **({} if kind == "Endpoint" else context.retries(task, job=False)),  # SageMaker tries no endpoint again
    }


def _container(task: Task, context: Compiling) -> dict[str, Any]:
    made = context.made(task.inputs["model"][0])
    return model_container(context.image(task), made, server_environment(task, context))


def _model(task: Task, context: Compiling) -> Step:
    return _step(task, context, "model", "Model", model_request(_container(task, context), context))


def _config(task: Task, context: Compiling) -> Step:
    model = get(f"Steps.{step_name(task.name, 'model')}.ModelName")
    kept, served = capture(context, task), variants(task, context, model)
    key = context.volume_key(*(one["InstanceType"] for one in served))
    arguments = {
        # a configuration can't be changed: each execution has one of its own
        "EndpointConfigName": join("-", endpoint_name(task, context), EXECUTION_ID),
        "ProductionVariants": served,
        **({"DataCaptureConfig": kept} if kept else {}),
        **({"Tags": context.tags} if context.tags else {}),
        **({"KmsKeyId": key} if key is not None else {}),
    }
    return _step(task, context, "config", "EndpointConfig", arguments)


def _endpoint(task: Task, context: Compiling) -> Step:
    arguments = {
        "EndpointName": endpoint_name(task, context),
        "EndpointConfigName": _config_name(task),
        "DeploymentConfig": deployment(task, context),
        **({"Tags": context.tags} if context.tags else {}),
    }
    return _step(task, context, "endpoint", "Endpoint", arguments)


def _config_name(task: Task) -> Expression:
    return get(f"Steps.{step_name(task.name, 'config')}.EndpointConfigName")


def _check(task: Task, context: Compiling) -> Step:
    """The step that asks the endpoint, and rolls it back when the answers are wrong."""
    work = endpoint_work(task, context, _CONFIG_MARK).model_copy(update={"name": _NAME_MARK})
    values = {_NAME_MARK: endpoint_name(task, context), _CONFIG_MARK: _config_name(task)}
    arguments: list[Expression] = ["--endpoint"]
    for part in re.split(
        f"({_NAME_MARK}|{_CONFIG_MARK})", as_json(work.model_dump(mode="json", exclude_defaults=True))
    ):
        arguments += [values[part]] if part in values else chunks(part)
    step = context.processing_step(task, arguments=arguments, depends_on=[step_name(task.name, "endpoint")])
    step.pop("CacheConfig", None)  # another endpoint configuration was made: what was found out of the last is stale
    network = step["Arguments"].get("NetworkConfig", {})
    if network.pop("EnableNetworkIsolation", False) and not network:  # it asks services, which an isolated job can't
        del step["Arguments"]["NetworkConfig"]
    return step


def serving_notes(context: Compiling) -> Iterator[str]:
    """What a person should know about the deployments of a pipeline that could be compiled."""
    serving = context.target.serving
    for task in context.spec.tasks:
        if context.kind(task) != "serving":
            continue
        if serving.kind == "endpoint" and context.target.network.isolate:
            yield (
                f"{step_name(task.name)} is not isolated: target.network.isolate=true would keep it from AWS's API, by "
                "which it asks the endpoint and sets its scaling; the model's containers are isolated"
            )
        if serving.registration is not None and not _metrics_uri(task, context):
            why = "its conditions read no task's metrics.json" if task.conditions else "no condition stands before it"
            yield (
                f"{step_name(task.name, 'register')}: the version in the registry has no metrics, as {why}; a "
                "training's metrics are in no file of their own, those of evaluate are"
            )


def _register(task: Task, context: Compiling, registration: Registration, after: Sequence[str] = ()) -> Step:
    container = _container(task, context)
    packed = "ModelDataUrl" in container
    metrics = _metrics_uri(task, context)
    notes = {"pipeline": context.spec.name}
    if registration.description is not None:
        if len(registration.description) > _LONGEST_METADATA:
            raise UnsupportedError(
                f"target.serving.registration.description: {len(registration.description)} characters; a step of a "
                f"pipeline can say {_LONGEST_METADATA}"
            )
        notes["description"] = registration.description
    arguments = {
        "ModelPackageGroupName": registration.group,
        **({"ModelMetrics": {"ModelQuality": {"Statistics": metrics}}} if metrics else {}),
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": list(registration.content_types),
            "SupportedResponseMIMETypes": list(registration.response_types),
            "SupportedRealtimeInferenceInstanceTypes": [endpoint_instance(task, context)],
            # plain files are no model for batch transform
            **({"SupportedTransformInstanceTypes": [_transform_instance(task, context)]} if packed else {}),
        },
        "ModelApprovalStatus": registration.approval,
        "CustomerMetadataProperties": notes,
    }
    step = _step(task, context, "register", "RegisterModel", arguments)
    return {**step, **context.depends_on(task, *after)}


def _transform_instance(task: Task, context: Compiling) -> str:
    try:
        return choose(task.resources, "transform")
    except UnsupportedError:
        return endpoint_instance(task, context)


def _metrics_uri(task: Task, context: Compiling) -> dict[str, Any]:
    """The metrics file of the task that decides whether this one runs, the innermost when there are several."""
    for condition in reversed(task.conditions):
        judge = context.spec.task(condition.metric.task)
        for port in context.component(judge).outputs:
            if port.artifact.title == "millrace.Metrics" and context.kind(judge) in ("processing", "serving"):
                made = context.made(condition.metric.model_copy(update={"port": port.name}))
                return {"ContentType": "application/json", "S3Uri": below(made.uri, "metrics.json")}
    return {}


def _check_unread(task: Task, context: Compiling) -> None:
    """Nothing can follow a model that is registered only.

    Raises:
        UnsupportedError: Naming the task that would.
    """
    for other in context.spec.tasks:
        if task.name in other.upstream():
            raise UnsupportedError(
                f"tasks.{other.name}: it follows {task.name!r}, which with target.serving.kind=registry asks no "
                "endpoint and has no outputs: use target.serving.kind=endpoint"
            )
