"""What serves a model: containers, machines, and how a new model takes over."""

from __future__ import annotations

from typing import Any

from millrace.compilers.sagemaker.context import Compiling, Made
from millrace.compilers.sagemaker.expressions import Expression, as_text, join
from millrace.compilers.sagemaker.machines import choose, read_machines
from millrace.errors import ConfigError, UnsupportedError
from millrace.runtime.limits import NAME_VARIABLE, Limits, limit_variable
from millrace.specs import Task
from millrace.targets.sagemaker import EndpointWork, SageMaker, Serving

__all__ = [
    "capture",
    "check_names",
    "check_serving",
    "check_unserved",
    "deployment",
    "endpoint_instance",
    "endpoint_name",
    "endpoint_work",
    "model_container",
    "model_request",
    "own_variant",
    "server_environment",
    "variants",
]

_KINDS = {"all_at_once": "ALL_AT_ONCE", "canary": "CANARY", "linear": "LINEAR"}
_LEAST_START = 60
_LEAST_STEP = 10
_MOST_VARIABLES = 100
_LONGEST_VARIABLE = 1024


def endpoint_name(task: Task, context: Compiling) -> Expression:
    """Name of the endpoint: `deploy.name`, which may be left open."""
    return _value(task, context, "name")


def endpoint_instance(task: Task, context: Compiling) -> str:
    """Machine type of the endpoint.

    Raises:
        UnsupportedError: When none holds the task.
    """
    if context.target.serving.instance is not None:
        return context.target.serving.instance
    try:
        return choose(task.resources, "endpoint")
    except UnsupportedError as error:
        message = str(error).replace("target.tasks.TASK.instance", "target.serving.instance")
        raise UnsupportedError(f"tasks.{task.name}.resources: {message}") from error


def endpoint_work(task: Task, context: Compiling, config: str) -> EndpointWork:
    """What the step that checks the endpoint is told."""
    serving = context.target.serving
    machine = read_machines().machines.get(endpoint_instance(task, context))
    return EndpointWork(
        name=str(task.parameters["name"]),
        config=config,
        variant=serving.variant,
        region=context.target.region,
        cpus=None if machine is None else machine.cpus,
        rollout_seconds=serving.rollout.timeout_minutes * 60,
        cooldowns=serving.cooldowns,
        custom_metric=serving.custom_metric,
        scheduled=serving.scheduled,
    )


def server_environment(task: Task, context: Compiling) -> dict[str, Expression]:
    """Variables of a serving container: the model's name, limits that were changed, and those of the task's job.

    Raises:
        UnsupportedError: For more or longer ones than a model takes.
    """
    opened = {path for path, _ in context.opened(task)}
    found: dict[str, Expression] = {}
    if "name" in task.parameters:
        found[NAME_VARIABLE] = _value(task, context, "name")
    for field, info in Limits.model_fields.items():
        value = task.parameters.get(field, info.default)
        if field in opened:
            found[limit_variable(field)] = as_text(_value(task, context, field))
        elif value != info.default:
            found[limit_variable(field)] = f"{value}"
    found |= context.job(task).environment
    for name, text in found.items():
        if isinstance(text, str) and max(len(name), len(text)) > _LONGEST_VARIABLE:
            raise UnsupportedError(
                f"target.tasks.{task.name}.environment.{name}: {max(len(name), len(text))} characters; a model takes "
                f"{_LONGEST_VARIABLE}"
            )
    if len(found) > _MOST_VARIABLES:
        raise UnsupportedError(
            f"target.tasks.{task.name}.environment: {len(found)} variables; a model takes {_MOST_VARIABLES}"
        )
    return dict(sorted(found.items()))


def model_container(image: str, made: Made, environment: dict[str, Expression]) -> dict[str, Any]:
    """A container with a model: from an archive, or from a folder in S3 as it is."""
    data: dict[str, Any] = {"ModelDataUrl": made.uri}
    if made.archive is None:
        source = {"S3Uri": _folder(made.uri), "S3DataType": "S3Prefix", "CompressionType": "None"}
        data = {"ModelDataSource": {"S3DataSource": source}}
    return {"Image": image, **data, **({"Environment": environment} if environment else {})}


def model_request(container: dict[str, Any], context: Compiling) -> dict[str, Any]:
    """A CreateModel request, without the name."""
    return {
        "PrimaryContainer": container,
        "ExecutionRoleArn": context.role,
        **({"VpcConfig": context.vpc} if context.vpc else {}),
        **({"EnableNetworkIsolation": True} if context.target.network.isolate else {}),
        **({"Tags": context.tags} if context.tags else {}),
    }


def own_variant(task: Task, context: Compiling, model: Expression) -> dict[str, Any]:
    """The variant with the pipeline's own model."""
    serving = context.target.serving
    seconds = task.parameters.get("startup_timeout_seconds", 240)
    return {
        "VariantName": serving.variant,
        "ModelName": model,
        "InitialInstanceCount": _count(task),
        "InstanceType": endpoint_instance(task, context),
        "InitialVariantWeight": serving.weight,
        "ContainerStartupHealthCheckTimeoutInSeconds": max(_LEAST_START, round(float(str(seconds)))),
    }


def _count(task: Task) -> int:
    """Machines that the endpoint begins with."""
    scaling = task.parameters.get("scaling")
    return int(str(scaling.get("min_replicas", 1))) if isinstance(scaling, dict) else 1


def variants(task: Task, context: Compiling, model: Expression) -> list[dict[str, Any]]:
    """All variants, the pipeline's own first."""
    own = own_variant(task, context, model)
    others = [
        {
            "VariantName": one.name,
            "ModelName": one.model,
            "InitialInstanceCount": one.count,
            "InstanceType": one.instance or own["InstanceType"],
            "InitialVariantWeight": one.weight,
        }
        for one in context.target.serving.variants
    ]
    return [own, *others]


def capture(context: Compiling, task: Task) -> dict[str, Any] | None:
    """The DataCaptureConfig; None when nothing is kept."""
    wanted = context.target.serving.capture
    if wanted is None:
        return None
    kept = [mode for mode, on in (("Input", wanted.requests), ("Output", wanted.answers)) if on]
    key = context.target.output_key
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": wanted.percent,
        "DestinationS3Uri": wanted.uri or context.in_pipeline("captured", task.name),
        **({"KmsKeyId": key} if key is not None else {}),
        "CaptureOptions": [{"CaptureMode": mode} for mode in kept],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    }


def deployment(task: Task, context: Compiling) -> dict[str, Any]:
    """The DeploymentConfig: how the new machines take over from those that are there.

    Raises:
        UnsupportedError: When two settings contradict each other.
    """
    rollout = context.target.serving.rollout
    kind, percent = rollout.kind, rollout.percent
    canary = task.parameters.get("canary")
    if isinstance(canary, dict):
        asked = int(str(canary.get("percent", 10)))
        if kind == "linear" or (kind == "canary" and asked != percent):
            raise UnsupportedError(
                f"{task.name}.canary.percent={asked}: target.serving.rollout says otherwise, kind={kind} with "
                f"{percent} percent: say it in one place"
            )
        kind, percent = "canary", asked
    if kind == "linear" and percent < _LEAST_STEP:
        raise UnsupportedError(
            f"target.serving.rollout.percent={percent}: SageMaker's linear steps have {_LEAST_STEP} to 50 percent"
        )
    if kind != "all_at_once":
        _check_counts(task, context, kind)
    # at once with alarms: that long they are watched before the old machines may go
    waits = 0 if kind == "all_at_once" and not rollout.alarms else rollout.wait_minutes * 60
    routing: dict[str, Any] = {"Type": _KINDS[kind], "WaitIntervalInSeconds": waits}
    if kind != "all_at_once":
        part = {"Type": "CAPACITY_PERCENT", "Value": percent}
        routing["CanarySize" if kind == "canary" else "LinearStepSize"] = part
    policy = {
        "TrafficRoutingConfiguration": routing,
        "TerminationWaitInSeconds": rollout.keep_minutes * 60,
        "MaximumExecutionTimeoutInSeconds": rollout.timeout_minutes * 60,
    }
    alarms = [{"AlarmName": name} for name in rollout.alarms]
    return {
        "BlueGreenUpdatePolicy": policy,
        **({"AutoRollbackConfiguration": {"Alarms": alarms}} if alarms else {}),
    }


def _check_counts(task: Task, context: Compiling, kind: str) -> None:
    """A step of at most half of a variant's machines needs two of them.

    Raises:
        UnsupportedError: With the key of the number that is too small.
    """
    counts = {f"{task.name}.scaling.min_replicas": _count(task)}
    counts |= {f"target.serving.variants[{one.name}].count": one.count for one in context.target.serving.variants}
    for key, count in counts.items():
        if count < 2:
            raise UnsupportedError(
                f"{key}={count}: a {kind} rollout begins with at most half of a variant's machines: have 2 or more "
                f"(raise {task.name}.scaling.max_replicas, too, where it is less), or let the new model take over at "
                f"once ({task.name}.canary=null, target.serving.rollout.kind=all_at_once)"
            )


def check_names(task: Task, context: Compiling) -> None:
    """Each deployment has an endpoint of its own.

    Raises:
        ConfigError: Naming both tasks, and what to set.
    """
    for other in context.spec.tasks:
        if other.name == task.name:
            return  # the rest is compared when it is their turn
        if context.kind(other) == "serving" and _usual_name(other, context) == _usual_name(task, context):
            raise ConfigError(
                f"tasks.{other.name}, tasks.{task.name}: both deploy to the endpoint {_usual_name(task, context)!r}, "
                f"where the later one would replace the other: give each a name of its own, {other.name}.name and "
                f"{task.name}.name"
            )


def _usual_name(task: Task, context: Compiling) -> str:
    """The endpoint's name when a run is started without other values."""
    opened = [str(one.default) for path, one in context.opened(task) if path == "name"]
    return opened[0] if opened else str(task.parameters["name"])


def check_unserved(target: SageMaker) -> None:
    """Refuse settings of services that nothing is handed to.

    Raises:
        ConfigError: Naming the setting.
    """
    for service, settings in (("serving", target.serving), ("transform", target.transform)):
        way = {"none": "endpoint", "task": "job"}.get(settings.kind)
        if way is None:
            continue
        what = "endpoint is made" if isinstance(settings, Serving) else "transform job runs"
        for name, field in type(settings).model_fields.items():
            if name != "kind" and getattr(settings, name) != field.default:
                raise ConfigError(
                    f"target.{service}.{name}: with target.{service}.kind={settings.kind} no {what} that would follow "
                    f"it: leave it out, or set target.{service}.kind={way}"
                )


def check_serving(task: Task, context: Compiling) -> None:
    """Refuse settings that contradict each other, or that would do nothing.

    Raises:
        ConfigError: For names that are given twice.
        UnsupportedError: For fields that can't stay open, and settings without effect.
    """
    serving = context.target.serving
    names = [serving.variant, *(one.name for one in serving.variants)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"target.serving.variants: two variants are called {name!r}: rename one")
    if serving.weight == 0 and all(one.weight == 0 for one in serving.variants):
        raise ConfigError("target.serving.weight=0: no variant gets any requests: give one of them a weight")
    if serving.capture is not None and not (serving.capture.requests or serving.capture.answers):
        raise ConfigError("target.serving.capture: requests=false and answers=false keep nothing: leave capture out")
    for path, one in context.opened(task):
        if path in ("scaling.min_replicas", "startup_timeout_seconds", "canary.percent", "canary.promote"):
            raise UnsupportedError(
                f"runtime: {one.name} can't stay open on SageMaker, whose endpoint configuration fixes it: set it when "
                "compiling"
            )


def _value(task: Task, context: Compiling, path: str) -> Expression:
    for name, one in context.opened(task):
        if name == path:
            return context.open_value(one)
    return str(task.parameters[path])


def _folder(uri: Expression) -> Expression:
    """A folder's URI with a slash at its end."""
    if isinstance(uri, str):
        return uri if uri.endswith("/") else f"{uri}/"
    joined = uri.get("Std:Join", {}).get("Values", ())
    return uri if joined and joined[-1] == "/" else join("", uri, "/")
