"""The policies that a compiled definition needs: of the role of its jobs, of who submits it, of who schedules it.

Sources: the actions, resources and condition keys of SageMaker, S3, ECR, KMS, CloudWatch Logs and Application Auto
Scaling in AWS's Service Authorization Reference, and "SageMaker AI Roles" in its Developer Guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from millrace.compilers.sagemaker.iam_places import packages_of, places_of, widest
from millrace.compilers.sagemaker.iam_statements import (
    ACCOUNT,
    BUCKET,
    JOBS,
    Scope,
    alarms,
    allow,
    endpoint_names,
    keys,
    repositories,
    scaling,
)
from millrace.compilers.sagemaker.iam_submitter import scheduling, submitter
from millrace.compilers.sagemaker.walk import every_field, every_step, pattern_of
from millrace.targets.sagemaker import SageMaker

__all__ = ["Policies", "policies"]

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
    scope = Scope(name, target)
    notes = [
        f"{word} stands for {meaning}: put yours in its place, or set {key}"
        for word, meaning, key in (
            (ACCOUNT, "the number of your AWS account", "target.role"),
            (BUCKET, "the bucket that runs write to", "target.bucket"),
        )
        if word in (scope.account, scope.bucket)
    ]
    documents = {
        "trust": _document([_trusting("sagemaker.amazonaws.com", scope)]),
        "execution": _document(list(_execution(steps, document, scope))),
        "submitter": _document([*submitter(steps, scope), *(scheduling(scope) if scheduled else ())]),
    }
    if scheduled:
        documents["scheduler_trust"] = _document([_trusting("scheduler.amazonaws.com", scope)])
        pipeline = scope.arn(f"pipeline/{scope.pipeline}")
        documents["scheduler"] = _document([allow("StartRuns", ["sagemaker:StartPipelineExecution"], [pipeline])])
    return Policies(documents, notes)


def _execution(steps: list[Mapping[str, Any]], document: Mapping[str, Any], scope: Scope) -> Iterator[dict[str, Any]]:
    """What the role of the jobs must be allowed."""
    for kind, (actions, resources) in JOBS.items():
        used = [step for step in steps if step["Type"] == kind]
        if used:
            yield allow(f"Run{kind}", [f"sagemaker:{name}" for name in actions], _resources(resources, used, scope))
    yield allow(
        "HandOnThisRole", ["iam:PassRole"], [scope.role], {"StringEquals": {"iam:PassedToService": scope.service}}
    )
    if document.get("PipelineExperimentConfig"):
        kinds = ("experiment", "experiment-trial", "experiment-trial-component")
        yield allow(
            "RecordExperiments",
            [f"sagemaker:{name}" for name in _EXPERIMENTS],
            [scope.arn(f"{kind}/*") for kind in kinds],
        )
    if any(key == "Tags" for key, _ in every_field(steps)):
        yield allow("Tag", ["sagemaker:AddTags"], [scope.arn("*")])
    yield from _storage(steps, scope)
    if packages := packages_of(steps):
        yield allow("ReadModelPackages", ["sagemaker:DescribeModelPackage"], packages)
    yield from _images(steps, scope)
    yield from _keys(steps, scope)
    logs = scope.arn("log-group:/aws/sagemaker/*", "logs")
    yield allow(
        "WriteLogs",
        ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
        [logs],
    )
    yield allow(
        "WriteFigures",
        ["cloudwatch:PutMetricData"],
        ["*"],
        {"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}},
    )
    if any(key in ("VpcConfig", "Subnets") for key, _ in every_field(steps)):
        yield _network()
    yield from _endpoints(steps, scope)


def _endpoints(steps: list[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """For rollouts, and for the step that asks and scales an endpoint."""
    watched = alarms(steps, scope)
    if watched:
        yield allow("WatchRollout", ["cloudwatch:DescribeAlarms"], watched)
    asked = [
        step
        for step in steps
        if "--endpoint" in step.get("Arguments", {}).get("AppSpecification", {}).get("ContainerArguments", ())
    ]
    if not asked:
        return
    endpoints = [scope.arn(f"endpoint/{name}") for name in endpoint_names(steps)]
    yield allow(
        "AskEndpoint",
        [
            *("sagemaker:DescribeEndpoint", "sagemaker:InvokeEndpoint", "sagemaker:UpdateEndpoint"),
            *("sagemaker:AddTags", "sagemaker:ListTags"),  # which configuration has passed its checks
        ],
        endpoints,
    )
    yield allow("ReadEndpointConfig", ["sagemaker:DescribeEndpointConfig"], [scope.arn("endpoint-config/*")])
    yield from scaling(scope)


def _resources(templates: Iterable[str], steps: Iterable[Mapping[str, Any]], scope: Scope) -> list[str]:
    """The resources of a kind of step, by the names that its steps give them."""
    found = []
    for template in templates:
        for step in steps:
            arguments = step["Arguments"]
            group = pattern_of(arguments.get("ModelPackageGroupName", "*"))
            endpoint = pattern_of(arguments.get("EndpointName", "*"))
            found.append(scope.arn(template.format(group=group, endpoint=endpoint)))
    return sorted(set(found))


def _storage(steps: list[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """Objects that are read and written: what the document names, and folders of this pipeline."""
    places = places_of(steps, scope.bucket, scope.prefix)
    for name, actions, chosen in (
        ("ReadObjects", ["s3:GetObject"], [place.pattern for place in places]),
        ("WriteObjects", ["s3:AbortMultipartUpload", "s3:PutObject"], [p.pattern for p in places if p.writes]),
    ):
        if chosen:
            yield allow(name, actions, [f"arn:{scope.partition}:s3:::{pattern}" for pattern in widest(chosen)])
    buckets = sorted({place.pattern.partition("/")[0] for place in places})
    for bucket in buckets:
        keys = [place.pattern.partition("/")[2] for place in places if place.pattern.startswith(f"{bucket}/")]
        condition = {"StringLike": {"s3:prefix": widest(keys)}} if all(keys) and "*" not in keys else None
        label = re.sub(r"[^A-Za-z0-9]", "", bucket)
        yield allow(f"List{label}", ["s3:ListBucket"], [f"arn:{scope.partition}:s3:::{bucket}"], condition)
    if buckets:
        arns = [f"arn:{scope.partition}:s3:::{bucket}" for bucket in buckets]
        yield allow("LocateBuckets", ["s3:GetBucketLocation"], arns)


def _images(steps: Iterable[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    found = repositories(steps, scope)
    if found:
        yield allow(
            "PullImages",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            found,
        )
        yield allow("LogInToImages", ["ecr:GetAuthorizationToken"], ["*"])


def _keys(steps: Iterable[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    given = {value for key, value in every_field(steps) if key.endswith("KmsKeyId") and isinstance(value, str)}
    actions = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*"]
    yield from keys("UseKeys", actions, given, scope)
    yield from keys("LendKeys", ["kms:CreateGrant"], given, scope, Bool={"kms:GrantIsForAWSResource": "true"})


def _network() -> dict[str, Any]:
    actions = ("CreateNetworkInterface", "CreateNetworkInterfacePermission", "DeleteNetworkInterface",
               "DeleteNetworkInterfacePermission", "DescribeDhcpOptions", "DescribeNetworkInterfaces",
               "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs")  # fmt: skip
    return allow("JoinNetwork", [f"ec2:{name}" for name in actions], ["*"])


def _trusting(service: str, scope: Scope) -> dict[str, Any]:
    suffix = ".cn" if scope.partition == "aws-cn" and service.startswith("sagemaker") else ""
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}{suffix}"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": scope.account}},
    }


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}
