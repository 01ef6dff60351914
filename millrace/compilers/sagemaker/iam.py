"""The policies that a compiled definition needs: of the role of its jobs, of who submits it, of who schedules it.

Sources: the actions, resources and condition keys of SageMaker, S3, ECR, KMS, CloudWatch Logs and Application Auto
Scaling in AWS's Service Authorization Reference, and "SageMaker AI Roles" in its Developer Guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from millrace.compilers.sagemaker.iam_places import places_of, widest
from millrace.compilers.sagemaker.images import ecr_image
from millrace.compilers.sagemaker.walk import every_field, every_step, pattern_of
from millrace.targets.sagemaker import SageMaker

__all__ = ["Policies", "policies"]

_ACCOUNT = "ACCOUNT"
_BUCKET = "BUCKET"
_JOBS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
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
_EXPERIMENTS = (
    "AssociateTrialComponent",
    "CreateExperiment",
    "CreateTrial",
    "CreateTrialComponent",
    "DescribeExperiment",
    "DescribeTrial",
    "DescribeTrialComponent",
    "UpdateTrialComponent",
)


class Policies(NamedTuple):
    """Policy documents, and what is to be replaced in them by hand."""

    documents: dict[str, Any]
    notes: list[str]


def policies(text: str, name: str, target: SageMaker, *, scheduled: bool = True) -> Policies:
    """The policies for a definition, with exactly the actions and resources that it uses.

    Args:
        text: The definition.
        name: Of the pipeline.
        target: Where it runs: region, role, keys.
        scheduled: Also those of a role that starts runs on a schedule.
    """
    document = json.loads(text)
    steps = list(every_step(document["Steps"]))
    scope = _Scope(name, target)
    notes = [
        f"{word} stands for {meaning}: put yours in its place, or set {key}"
        for word, meaning, key in (
            (_ACCOUNT, "the number of your AWS account", "target.role"),
            (_BUCKET, "the bucket that runs write to", "target.bucket"),
        )
        if word in (scope.account, scope.bucket)
    ]
    documents = {
        "trust": _document([_trusting("sagemaker.amazonaws.com", scope)]),
        "execution": _document(list(_execution(steps, document, scope))),
        "submitter": _document([*_submitter(steps, scope), *(_scheduling(scope) if scheduled else ())]),
    }
    if scheduled:
        documents["scheduler_trust"] = _document([_trusting("scheduler.amazonaws.com", scope)])
        pipeline = scope.arn(f"pipeline/{scope.pipeline}")
        documents["scheduler"] = _document([_allow("StartRuns", ["sagemaker:StartPipelineExecution"], [pipeline])])
    return Policies(documents, notes)


class _Scope:
    """Names that stand in every policy of a definition."""

    def __init__(self, pipeline: str, target: SageMaker) -> None:
        self.region = target.region
        self.partition = "aws-cn" if target.region.startswith("cn-") else "aws"
        self.account = target.role.split(":")[4] if target.role else _ACCOUNT
        self.role = target.role or f"arn:{self.partition}:iam::{_ACCOUNT}:role/ROLE"
        self.schedule_role = target.schedule_role or self.role
        self.bucket = target.bucket or _BUCKET
        self.prefix = target.prefix
        self.pipeline = pipeline

    def arn(self, resource: str, service: str = "sagemaker") -> str:
        """A resource of a service in the target's region and account."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"


def _execution(steps: list[Mapping[str, Any]], document: Mapping[str, Any], scope: _Scope) -> Iterator[dict[str, Any]]:
    """What the role of the jobs must be allowed."""
    for kind, (actions, resources) in _JOBS.items():
        used = [step for step in steps if step["Type"] == kind]
        if used:
            yield _allow(f"Run{kind}", [f"sagemaker:{name}" for name in actions], _resources(resources, used, scope))
    yield _allow(
        "HandOnThisRole", ["iam:PassRole"], [scope.role], {"StringEquals": {"iam:PassedToService": _service(scope)}}
    )
    if document.get("PipelineExperimentConfig"):
        kinds = ("experiment", "experiment-trial", "experiment-trial-component")
        yield _allow(
            "RecordExperiments",
            [f"sagemaker:{name}" for name in _EXPERIMENTS],
            [scope.arn(f"{kind}/*") for kind in kinds],
        )
    if any(key == "Tags" for key, _ in every_field(steps)):
        yield _allow("Tag", ["sagemaker:AddTags"], [scope.arn("*")])
    yield from _storage(steps, scope)
    yield from _images(steps, scope)
    yield from _keys(steps, scope)
    logs = scope.arn("log-group:/aws/sagemaker/*", "logs")
    yield _allow(
        "WriteLogs",
        ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
        [logs],
    )
    yield _allow(
        "WriteFigures",
        ["cloudwatch:PutMetricData"],
        ["*"],
        {"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}},
    )
    if any(key in ("VpcConfig", "Subnets") for key, _ in every_field(steps)):
        yield _network()
    yield from _endpoints(steps, scope)


def _service(scope: _Scope) -> str:
    return f"sagemaker.amazonaws.com{'.cn' if scope.partition == 'aws-cn' else ''}"


def _endpoints(steps: Iterable[Mapping[str, Any]], scope: _Scope) -> Iterator[dict[str, Any]]:
    """For the step that asks and scales an endpoint."""
    asked = [
        step
        for step in steps
        if "--endpoint" in step.get("Arguments", {}).get("AppSpecification", {}).get("ContainerArguments", ())
    ]
    if not asked:
        return
    endpoints = [scope.arn(f"endpoint/{name}") for name in _endpoint_names(steps)]
    yield _allow(
        "AskEndpoint",
        [
            *("sagemaker:DescribeEndpoint", "sagemaker:InvokeEndpoint", "sagemaker:UpdateEndpoint"),
            *("sagemaker:AddTags", "sagemaker:ListTags"),  # which configuration has passed its checks
        ],
        endpoints,
    )
    yield _allow("ReadEndpointConfig", ["sagemaker:DescribeEndpointConfig"], [scope.arn("endpoint-config/*")])
    actions = ("DeleteScalingPolicy", "DeleteScheduledAction", "DeregisterScalableTarget", "DescribeScalableTargets",
               "DescribeScalingPolicies", "DescribeScheduledActions", "PutScalingPolicy", "PutScheduledAction",
               "RegisterScalableTarget")  # fmt: skip
    yield _allow("ScaleEndpoint", [f"application-autoscaling:{name}" for name in actions], ["*"])
    yield _allow(
        "AlarmsOfScaling",
        ["cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
        [scope.arn("alarm:TargetTracking-endpoint/*", "cloudwatch")],
    )
    linked = "sagemaker.application-autoscaling.amazonaws.com"
    yield _allow(
        "RoleOfScaling",
        ["iam:CreateServiceLinkedRole"],
        [
            f"arn:{scope.partition}:iam::{scope.account}:role/aws-service-role/{linked}/"
            "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
        ],
        {"StringLike": {"iam:AWSServiceName": linked}},
    )


def _endpoint_names(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    names = {pattern_of(step["Arguments"].get("EndpointName", "*")) for step in steps if step["Type"] == "Endpoint"}
    return sorted(names) or ["*"]


def _resources(templates: Iterable[str], steps: Iterable[Mapping[str, Any]], scope: _Scope) -> list[str]:
    """The resources of a kind of step, by the names that its steps give them."""
    found = []
    for template in templates:
        for step in steps:
            arguments = step["Arguments"]
            group = pattern_of(arguments.get("ModelPackageGroupName", "*"))
            endpoint = pattern_of(arguments.get("EndpointName", "*"))
            found.append(scope.arn(template.format(group=group, endpoint=endpoint)))
    return sorted(set(found))


def _storage(steps: list[Mapping[str, Any]], scope: _Scope) -> Iterator[dict[str, Any]]:
    """Objects that are read and written: what the document names, and folders of this pipeline."""
    places = places_of(steps, scope.bucket, scope.prefix)
    for name, actions, chosen in (
        ("ReadObjects", ["s3:GetObject"], [place.pattern for place in places]),
        ("WriteObjects", ["s3:AbortMultipartUpload", "s3:PutObject"], [p.pattern for p in places if p.writes]),
    ):
        if chosen:
            yield _allow(name, actions, [f"arn:{scope.partition}:s3:::{pattern}" for pattern in widest(chosen)])
    buckets = sorted({place.pattern.partition("/")[0] for place in places})
    for bucket in buckets:
        keys = [place.pattern.partition("/")[2] for place in places if place.pattern.startswith(f"{bucket}/")]
        condition = {"StringLike": {"s3:prefix": widest(keys)}} if all(keys) and "*" not in keys else None
        label = re.sub(r"[^A-Za-z0-9]", "", bucket)
        yield _allow(f"List{label}", ["s3:ListBucket"], [f"arn:{scope.partition}:s3:::{bucket}"], condition)
    if buckets:
        arns = [f"arn:{scope.partition}:s3:::{bucket}" for bucket in buckets]
        yield _allow("LocateBuckets", ["s3:GetBucketLocation"], arns)


def _images(steps: Iterable[Mapping[str, Any]], scope: _Scope) -> Iterator[dict[str, Any]]:
    repositories = set()
    for key, value in every_field(steps):
        if key in ("ImageUri", "TrainingImage", "Image") and isinstance(value, str):
            found = ecr_image(value)
            if found:
                repositories.add(f"arn:{scope.partition}:ecr:{found.region}:{found.account}:repository/{found.name}")
    if repositories:
        yield _allow(
            "PullImages",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            sorted(repositories),
        )
        yield _allow("LogInToImages", ["ecr:GetAuthorizationToken"], ["*"])


def _keys(steps: Iterable[Mapping[str, Any]], scope: _Scope) -> Iterator[dict[str, Any]]:
    given = {value for key, value in every_field(steps) if key.endswith("KmsKeyId") and isinstance(value, str)}
    if given:
        keys = sorted(key if key.startswith("arn:") else scope.arn(f"key/{key}", "kms") for key in given)
        yield _allow("UseKeys", ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*"], keys)
        yield _allow("LendKeys", ["kms:CreateGrant"], keys, {"Bool": {"kms:GrantIsForAWSResource": "true"}})


def _network() -> dict[str, Any]:
    actions = ("CreateNetworkInterface", "CreateNetworkInterfacePermission", "DeleteNetworkInterface",
               "DeleteNetworkInterfacePermission", "DescribeDhcpOptions", "DescribeNetworkInterfaces",
               "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs")  # fmt: skip
    return _allow("JoinNetwork", [f"ec2:{name}" for name in actions], ["*"])


def _submitter(steps: list[Mapping[str, Any]], scope: _Scope) -> Iterator[dict[str, Any]]:
    """What a person must be allowed who uploads, starts and follows this pipeline."""
    pipeline = scope.arn(f"pipeline/{scope.pipeline}")
    actions = ("AddTags", "CreatePipeline", "DescribePipeline", "DescribePipelineDefinitionForExecution",
               "DescribePipelineExecution", "ListPipelineExecutions", "ListPipelineExecutionSteps",
               "ListPipelineParametersForExecution", "ListTags", "StartPipelineExecution", "StopPipelineExecution",
               "UpdatePipeline")  # fmt: skip
    yield _allow("RunPipeline", [f"sagemaker:{name}" for name in actions], [pipeline, f"{pipeline}/execution/*"])
    yield _allow(
        "HandOnRole", ["iam:PassRole"], [scope.role], {"StringEquals": {"iam:PassedToService": _service(scope)}}
    )
    looks = sorted(
        {
            f"sagemaker:{action}"
            for kind, (known, _) in _JOBS.items()
            if any(step["Type"] == kind for step in steps)
            for action in known
            if action.startswith(("Describe", "List"))
        }
    )
    if looks:
        yield _allow("LookAtJobs", looks, [scope.arn("*")])
    logs = scope.arn("log-group:/aws/sagemaker/*", "logs")
    yield _allow("ReadLogs", ["logs:DescribeLogStreams", "logs:GetLogEvents"], [logs])
    definitions = f"arn:{scope.partition}:s3:::{scope.bucket}/{scope.prefix}/definitions/*"
    yield _allow("StoreDefinitions", ["s3:GetObject", "s3:PutObject"], [definitions])
    yield _allow("FindBucket", ["s3:ListBucket"], [f"arn:{scope.partition}:s3:::{scope.bucket}"])


def _scheduling(scope: _Scope) -> Iterator[dict[str, Any]]:
    """What a person must be allowed who schedules runs of this pipeline."""
    actions = ("CreateSchedule", "DeleteSchedule", "GetSchedule", "UpdateSchedule")
    schedules = scope.arn("schedule/default/*", "scheduler")
    yield _allow("ScheduleRuns", [f"scheduler:{name}" for name in actions], [schedules])
    handed = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    yield _allow("HandOnScheduleRole", ["iam:PassRole"], [scope.schedule_role], handed)


def _trusting(service: str, scope: _Scope) -> dict[str, Any]:
    suffix = ".cn" if scope.partition == "aws-cn" and service.startswith("sagemaker") else ""
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}{suffix}"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": scope.account}},
    }


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(
    name: str, actions: Iterable[str], resources: Iterable[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Sid": name,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": sorted(resources),
    }
    return made if condition is None else {**made, "Condition": condition}
