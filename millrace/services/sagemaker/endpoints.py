"""The endpoint of a pipeline's deploy task: look at it, deploy an approved model, go back, divide requests, delete.

Names of models and configurations are derived from what they consist of: the same request made twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from millrace.compilers.refusals import check_work
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.hosting import capture, check_serving, deployment, endpoint_work, variants
from millrace.errors import ConfigError, TaskFailedError, did_you_mean
from millrace.runtime.sagemaker.endpoints import (
    Described,
    accept,
    delete_config,
    delete_endpoint,
    deploy_config,
    describe,
    earlier,
    set_weights,
    wait,
)
from millrace.runtime.sagemaker.missing import is_missing
from millrace.runtime.sagemaker.scaling import Wanted, described_scaling, scale, unscale, wanted_scaling
from millrace.services.sagemaker.marks import digest
from millrace.services.sagemaker.session import Session
from millrace.specs import PipelineSpec, Task
from millrace.targets.sagemaker import SageMaker

__all__ = ["Deployed", "delete", "deploy", "find", "rollback", "status", "weights"]

Tell = Callable[[str], None]
"""Called with a line for people about each thing that is done."""

_DIGEST = 12
_SPARE_SECONDS = 1800  # machines are fetched before the first request moves


@dataclass(frozen=True)
class Deployed:
    """The deploy task of a pipeline, and who asks about its endpoint."""

    session: Session
    context: Compiling
    task: Task

    @property
    def name(self) -> str:
        """Of the endpoint."""
        return str(self.task.parameters["name"])

    @property
    def target(self) -> SageMaker:
        """Where it is."""
        return self.context.target

    @property
    def scaling(self) -> Wanted | None:
        """How it shall be scaled; None for a fixed number of machines."""
        given = self.task.parameters.get("scaling")
        asked = cast("Mapping[str, Any]", given if isinstance(given, dict) else {})
        return wanted_scaling(
            int(asked.get("min_replicas", 1)),
            int(asked.get("max_replicas", 1)),
            asked.get("metric"),
            asked.get("target"),
            endpoint_work(self.task, self.context, ""),
        )


def find(session: Session, spec: PipelineSpec, name: str | None = None) -> Deployed:
    """The task that deploys.

    Args:
        session: Who asks.
        spec: The pipeline.
        name: Of the task, where there are several.

    Raises:
        ConfigError: When there is none, or several of which none was named.
        UnsupportedError: When its parameters are none for SageMaker.
    """
    if spec.runtime_parameters:
        raise ConfigError("runtime: an endpoint needs values, not open fields: leave `runtime` out")
    tasks = {task.name: task for task in spec.tasks if "serving" in spec.component_of(task).delegates}
    if not tasks:
        raise ConfigError(f"pipeline={spec.name}: no task of it deploys a model")
    if name is None and len(tasks) > 1:
        raise ConfigError(f"pipeline={spec.name} deploys in several tasks: endpoint.task={' or '.join(tasks)}")
    if name is not None and name not in tasks:
        raise ConfigError(f"endpoint.task={name}: no task that deploys: {did_you_mean(name, tasks)}")
    task = tasks[name or next(iter(tasks))]
    context = Compiling.of(spec, session.target)
    check_serving(task, context)
    check_work(task, context.component(task), endpoint_work(task, context, ""))
    return Deployed(session, context, task)


def status(one: Deployed) -> list[str]:
    """What there is to say about the endpoint, a line each."""
    with one.session.asking("sagemaker"):
        now = describe(one.session.client, one.name)
        if now is None:
            return [f"{one.name}: there is no such endpoint", *_packages(one)]
        lines = [f"{one.name}: {now.status}, configuration {now.config}"]
        if now.reason:
            lines.append(f"  {' '.join(now.reason.split())}")
        for variant in now.variants:
            weight, count = variant.get("CurrentWeight", 0), variant.get("CurrentInstanceCount", 0)
            lines.append(f"  variant {variant['VariantName']}: weight {weight:g}, {count} machine{'s' * (count != 1)}")
        client = one.session.client("application-autoscaling")
        lines += [f"  scaling: {line}" for line in described_scaling(client, one.name, one.target.serving.variant)]
        before = earlier(one.session.client, now)
        if before:
            lines.append(f"  to go back to: {before}")
        return [*lines, *_packages(one)]


def deploy(one: Deployed, package: str | None, *, follow: bool, tell: Tell) -> Described | None:
    """Serve an approved version of the registry.

    Args:
        one: The deploy task.
        package: ARN of the version; None takes the newest approved one.
        follow: Wait until it serves; otherwise a second call sets how it is scaled.
        tell: Told what is done.

    Returns:
        The endpoint, when it was waited for.

    Raises:
        ConfigError: When there is no such version, or it is not approved.
        TaskFailedError: When the endpoint does not come up with it.
    """
    with one.session.asking("sagemaker"):
        chosen = _approved(one, package)
        model = _model(one, chosen, tell)
        config = _config(one, model, tell)
        how = deployment(one.task, one.context)
        tags = one.target.tags
        changed = deploy_config(
            one.session.client, one.name, config, how, tags=tags, keep_counts=one.scaling is not None
        )
        tell(f"endpoint {one.name}: {'takes' if changed else 'has'} configuration {config}, version {chosen}")
        if not follow:
            return None
        now = _arrived(one, config, tell)
        accept(one.session.client, now)
        _scale(one, tell)
        return now


def rollback(one: Deployed, *, follow: bool, tell: Tell) -> Described | None:
    """Serve the configuration before.

    Raises:
        ConfigError: When there is no endpoint, or nothing to go back to.
        TaskFailedError: When the endpoint does not come up with it.
    """
    with one.session.asking("sagemaker"):
        now = _present(one)
        before = earlier(one.session.client, now)
        if not before:
            raise ConfigError(
                f"endpoint {one.name}: there is no earlier configuration to go back to, {now.config} serves"
            )
        deploy_config(
            one.session.client, one.name, before, deployment(one.task, one.context), keep_counts=one.scaling is not None
        )
        tell(f"endpoint {one.name}: back from {now.config} to {before}")
        if follow:
            _arrived(one, before, tell)
        # also when nobody waits: another rollback must not lead back to what was left
        accept(one.session.client, replace(now, config=before), forget=True)
        return describe(one.session.client, one.name) if follow else None


def weights(one: Deployed, wanted: Mapping[str, float], *, follow: bool, tell: Tell) -> Described | None:
    """Divide requests otherwise among the variants.

    Raises:
        ConfigError: When there is no endpoint, or no such variant.
    """
    if not wanted:
        raise ConfigError("endpoint.weights: say which variant gets which part: endpoint.weights={main:9,other:1}")
    with one.session.asking("sagemaker"):
        changed = set_weights(one.session.client, _present(one), wanted)
        told = ", ".join(f"{name} {value:g}" for name, value in sorted(wanted.items()))
        tell(f"endpoint {one.name}: {'weights are now' if changed else 'has these weights already:'} {told}")
        return _settled(one, tell) if follow else None


def delete(one: Deployed, *, follow: bool, tell: Tell) -> None:
    """Delete the endpoint, its scaling and its configurations. Models and versions of the registry stay.

    Raises:
        TaskFailedError: When it is not gone after a while.
    """
    ask = one.session.client
    with one.session.asking("sagemaker"):
        now = describe(ask, one.name)
        if now is None:
            tell(f"endpoint {one.name}: there is none")
            return
        names = [str(item["VariantName"]) for item in now.variants] or [one.target.serving.variant]
        for name in names:
            unscale(ask("application-autoscaling"), one.name, name)
        delete_endpoint(ask, one.name)
        configs = [config for config in dict.fromkeys((now.config, now.accepted, now.previous)) if config]
        deleted = [config for config in configs if delete_config(ask, config)]
        tell(f"endpoint {one.name}: deleted, with its configurations {', '.join(deleted)}; its models stay")
        if follow:
            _gone(one)


def _gone(one: Deployed) -> None:
    from botocore.exceptions import WaiterError

    poll = max(1, round(one.target.session.poll_seconds))
    waiter = one.session.client("sagemaker").get_waiter("endpoint_deleted")
    try:
        waiter.wait(EndpointName=one.name, WaiterConfig={"Delay": poll, "MaxAttempts": 1800 // poll})
    except WaiterError as error:
        raise TaskFailedError(f"endpoint {one.name}: it was asked to go, but is still there: {error}") from None


def _present(one: Deployed) -> Described:
    now = describe(one.session.client, one.name)
    if now is None:
        raise ConfigError(
            f"there is no endpoint {one.name!r} in {one.target.region}: run the pipeline, or deploy an approved model "
            "with endpoint.action=deploy"
        )
    return now


def _settled(one: Deployed, tell: Tell) -> Described:
    seconds = one.target.serving.rollout.timeout_minutes * 60 + _SPARE_SECONDS
    return wait(
        one.session.client,
        one.name,
        seconds,
        one.target.session.poll_seconds,
        lambda status: tell(f"endpoint {one.name}: {status}"),
    )


def _arrived(one: Deployed, config: str, tell: Tell) -> Described:
    """The endpoint, once it serves a configuration.

    Raises:
        TaskFailedError: When it was rolled back.
    """
    now = _settled(one, tell)
    if now.config != config or now.reason:
        why = " ".join(now.reason.split()) or "no reason is given"
        raise TaskFailedError(f"endpoint {one.name}: it did not take {config}, {now.config} serves: {why}")
    return now


def _scale(one: Deployed, tell: Tell) -> None:
    client, variant = one.session.client("application-autoscaling"), one.target.serving.variant
    wanted = one.scaling
    done = unscale(client, one.name, variant) if wanted is None else scale(client, one.name, variant, wanted)
    for line in done:
        tell(f"endpoint {one.name}: scaling: {line}")


def _group(one: Deployed) -> str | None:
    registration = one.target.serving.registration
    return None if registration is None else registration.group


def _packages(one: Deployed) -> list[str]:
    """The newest versions of the registry, a line each."""
    group = _group(one)
    return [] if group is None else [
        f"  version {item['ModelPackageVersion']} of {group}: {item['ModelApprovalStatus']}, {item['ModelPackageArn']}"
        for item in _listed(one, group)
    ]  # fmt: skip


def _listed(one: Deployed, group: str, **only: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        told = one.session.client("sagemaker").list_model_packages(
            ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending", MaxResults=5, **only
        )
    except ClientError as error:
        if is_missing(error):
            return []
        raise
    found: list[dict[str, Any]] = told["ModelPackageSummaryList"]
    return found


def _approved(one: Deployed, package: str | None) -> str:
    """ARN of the version to deploy.

    Raises:
        ConfigError: When there is none that may be.
    """
    if package is not None:
        state = one.session.client("sagemaker").describe_model_package(ModelPackageName=package)
        if state.get("ModelApprovalStatus") != "Approved":
            raise ConfigError(
                f"endpoint.package={package}: it is {state.get('ModelApprovalStatus')}: {_approve(package)}"
            )
        return str(state["ModelPackageArn"])
    group = _group(one)
    if group is None:
        raise ConfigError(
            "endpoint.action=deploy: say which model: target.serving.registration.group=NAME, or endpoint.package=ARN"
        )
    found = _listed(one, group, ModelApprovalStatus="Approved")
    if found:
        return str(found[0]["ModelPackageArn"])
    waiting = _listed(one, group)
    told = _approve(str(waiting[0]["ModelPackageArn"])) if waiting else "it has no versions: run the pipeline"
    raise ConfigError(f"target.serving.registration.group={group}: no version of it is approved: {told}")


def _approve(arn: str) -> str:
    return (
        f"approve it in Studio, or with `aws sagemaker update-model-package --model-package-arn {arn} "
        "--model-approval-status Approved`"
    )


def _model(one: Deployed, package: str, tell: Tell) -> str:
    """Name of the model of a version, which is made unless it is there."""
    target = one.target
    if target.role is None:
        raise ConfigError(
            "target.role: a model needs the ARN of a role: millrace iam target=sagemaker prints its policy"
        )
    request: dict[str, Any] = {
        "PrimaryContainer": {"ModelPackageName": package},
        "ExecutionRoleArn": target.role,
        **({"VpcConfig": one.context.vpc} if one.context.vpc else {}),
        **({"EnableNetworkIsolation": True} if target.network.isolate else {}),
    }
    name = f"{one.name}-{digest(**request)[:_DIGEST]}"
    client = one.session.client("sagemaker")
    if not _there(lambda: client.describe_model(ModelName=name)):
        client.create_model(ModelName=name, **request, **({"Tags": one.context.tags} if one.context.tags else {}))
        tell(f"model {name}: made of {package}")
    return name


def _config(one: Deployed, model: str, tell: Tell) -> str:
    """Name of the configuration, which is made unless it is there."""
    kept, served = capture(one.context, one.task), variants(one.task, one.context, model)
    key = one.context.volume_key(*(variant["InstanceType"] for variant in served))
    if kept and not isinstance(kept["DestinationS3Uri"], str):
        raise ConfigError(
            "target.bucket: requests and answers are captured to it: name it, or target.serving.capture.uri"
        )
    request: dict[str, Any] = {
        "ProductionVariants": served,
        **({"DataCaptureConfig": kept} if kept else {}),
        **({"KmsKeyId": key} if key is not None else {}),
    }
    name = f"{one.name}-{digest(**json.loads(json.dumps(request)))[:_DIGEST]}"
    client = one.session.client("sagemaker")
    if not _there(lambda: client.describe_endpoint_config(EndpointConfigName=name)):
        tags = {"Tags": one.context.tags} if one.context.tags else {}
        client.create_endpoint_config(EndpointConfigName=name, **request, **tags)
        tell(f"configuration {name}: made for model {model}")
    return name


def _there(ask: Callable[[], object]) -> bool:
    from botocore.exceptions import ClientError

    try:
        ask()
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    return True
