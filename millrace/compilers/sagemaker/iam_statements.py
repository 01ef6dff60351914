"""Statements of policies, and what stands in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millrace.compilers.sagemaker.images import ecr_image
from millrace.compilers.sagemaker.walk import every_field, pattern_of
from millrace.targets.aws_names import partition_of
from millrace.targets.sagemaker import SageMaker

__all__ = ["ACCOUNT", "BUCKET", "JOBS", "Scope", "alarms", "allow", "endpoint_names", "keys", "repositories", "scaling"]

ACCOUNT = "ACCOUNT"
BUCKET = "BUCKET"
"""Stand for what the settings leave open."""
JOBS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Processing": (
        ("CreateProcessingJob", "DescribeProcessingJob", "StopProcessingJob"),
        ("processing-job/pipelines-*",),
    ),
    "Training": (("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob"), ("training-job/pipelines-*",)),
    "Tuning": (
        (
            "CreateHyperParameterTuningJob",
            "CreateTrainingJob",
            "DescribeHyperParameterTuningJob",
            "DescribeTrainingJob",
            "ListTrainingJobsForHyperParameterTuningJob",
            "StopHyperParameterTuningJob",
            "StopTrainingJob",
        ),
        ("hyper-parameter-tuning-job/*", "training-job/*"),  # the service names these itself
    ),
    "Transform": (
        ("CreateTransformJob", "DescribeTransformJob", "StopTransformJob"),
        ("transform-job/pipelines-*", "model/*"),
    ),
    "Model": (("CreateModel", "DescribeModel"), ("model/*",)),
    "RegisterModel": (
        ("CreateModelPackage", "CreateModelPackageGroup", "DescribeModelPackage", "DescribeModelPackageGroup"),
        ("model-package-group/{group}", "model-package/{group}/*"),
    ),
    "EndpointConfig": (
        ("CreateEndpointConfig", "DescribeEndpointConfig"),
        ("endpoint-config/*", "model/*"),
    ),
    "Endpoint": (
        ("CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint"),
        ("endpoint/{endpoint}", "endpoint-config/*"),
    ),
}
"""What a kind of step does, and to which resources below `arn:aws:sagemaker:REGION:ACCOUNT:`."""


class Scope:
    """Names that stand in every policy of a definition."""

    def __init__(self, pipeline: str, target: SageMaker) -> None:
        self.region = target.region
        self.partition = partition_of(target.region)
        self.account = target.role.split(":")[4] if target.role else ACCOUNT
        self.role = target.role or f"arn:{self.partition}:iam::{ACCOUNT}:role/ROLE"
        self.schedule_role = target.schedule_role or self.role
        self.bucket = target.bucket or BUCKET
        self.volume_key, self.output_key = target.volume_key, target.output_key
        self.prefix = target.prefix
        self.pipeline = pipeline

    def arn(self, resource: str, service: str = "sagemaker") -> str:
        """A resource of a service in the target's region and account."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    @property
    def service(self) -> str:
        """SageMaker, as roles trust it."""
        return f"sagemaker.amazonaws.com{'.cn' if self.partition == 'aws-cn' else ''}"


def endpoint_names(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the endpoints; `*` where they are not known."""
    names = {pattern_of(step["Arguments"].get("EndpointName", "*")) for step in steps if step["Type"] == "Endpoint"}
    return sorted(names) or ["*"]


def repositories(steps: Iterable[Mapping[str, Any]], scope: Scope) -> list[str]:
    """The repositories of ECR that images come from."""
    found = set()
    for key, value in every_field(list(steps)):
        if key in ("ImageUri", "TrainingImage", "Image") and isinstance(value, str):
            image = ecr_image(value)
            if image:
                found.add(f"arn:{scope.partition}:ecr:{image.region}:{image.account}:repository/{image.name}")
    return sorted(found)


def keys(
    name: str, actions: Iterable[str], given: Iterable[str], scope: Scope, **condition: Any
) -> Iterator[dict[str, Any]]:
    """Statements on KMS keys, given by ids, ARNs or aliases.

    A policy can't name an alias as a resource: it stands for all keys, of which only those with that alias count.
    """
    plain: set[str] = set()
    named: dict[str, set[str]] = {}
    for key in given:
        arn = key if key.startswith("arn:") else scope.arn(key if key.startswith("alias/") else f"key/{key}", "kms")
        place, _, alias = arn.partition(":alias/")
        if alias:
            named.setdefault(f"{place}:key/*", set()).add(f"alias/{alias}")
        else:
            plain.add(arn)
    if plain:
        yield allow(name, actions, plain, condition or None)
    for number, (arn, aliases) in enumerate(sorted(named.items())):
        only = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": sorted(aliases)}}
        yield allow(f"{name}ByAlias{number or ''}", actions, [arn], {**condition, **only})


def alarms(steps: Iterable[Mapping[str, Any]], scope: Scope) -> list[str]:
    """The alarms that end a rollout."""
    names = {value for key, value in every_field(list(steps)) if key == "AlarmName" and isinstance(value, str)}
    return sorted(scope.arn(f"alarm:{name}", "cloudwatch") for name in names)


def scaling(scope: Scope) -> Iterator[dict[str, Any]]:
    """Setting how an endpoint is scaled."""
    actions = ("DeleteScalingPolicy", "DeleteScheduledAction", "DeregisterScalableTarget", "DescribeScalableTargets",
               "DescribeScalingPolicies", "DescribeScheduledActions", "PutScalingPolicy", "PutScheduledAction",
               "RegisterScalableTarget")  # fmt: skip
    yield allow("ScaleEndpoint", [f"application-autoscaling:{name}" for name in actions], ["*"])
    yield allow(
        "AlarmsOfScaling",
        ["cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
        [scope.arn("alarm:TargetTracking-endpoint/*", "cloudwatch")],
    )
    linked = "sagemaker.application-autoscaling.amazonaws.com"
    yield allow(
        "RoleOfScaling",
        ["iam:CreateServiceLinkedRole"],
        [
            f"arn:{scope.partition}:iam::{scope.account}:role/aws-service-role/{linked}/"
            "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
        ],
        {"StringLike": {"iam:AWSServiceName": linked}},
    )


def allow(
    name: str, actions: Iterable[str], resources: Iterable[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A statement."""
    made: dict[str, Any] = {
        "Sid": name,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": sorted(resources),
    }
    return made if condition is None else {**made, "Condition": condition}
