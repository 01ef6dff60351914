"""What people must be allowed who upload, start, follow and schedule a pipeline, and change its endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.sagemaker.iam_statements import (
    JOBS,
    Scope,
    alarms,
    allow,
    endpoint_names,
    keys,
    repositories,
    scaling,
)
from millrace.compilers.sagemaker.walk import pattern_of

__all__ = ["scheduling", "submitter"]


def submitter(steps: list[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """What a person must be allowed who uploads, starts and follows this pipeline."""
    pipeline = scope.arn(f"pipeline/{scope.pipeline}")
    actions = ("AddTags", "CreatePipeline", "DescribePipeline", "DescribePipelineDefinitionForExecution",
               "DescribePipelineExecution", "ListPipelineExecutions", "ListPipelineExecutionSteps",
               "ListPipelineParametersForExecution", "ListTags", "StartPipelineExecution", "StopPipelineExecution",
               "UpdatePipeline")  # fmt: skip
    yield allow("RunPipeline", [f"sagemaker:{name}" for name in actions], [pipeline, f"{pipeline}/execution/*"])
    yield allow("HandOnRole", ["iam:PassRole"], [scope.role], {"StringEquals": {"iam:PassedToService": scope.service}})
    looks = sorted(
        {
            f"sagemaker:{action}"
            for kind, (known, _) in JOBS.items()
            if any(step["Type"] == kind for step in steps)
            for action in known
            if action.startswith(("Describe", "List"))
        }
    )
    if looks:
        yield allow("LookAtJobs", looks, [scope.arn("*")])
    logs = scope.arn("log-group:/aws/sagemaker/*", "logs")
    yield allow("ReadLogs", ["logs:DescribeLogStreams", "logs:GetLogEvents"], [logs])
    definitions = f"arn:{scope.partition}:s3:::{scope.bucket}/{scope.prefix}/definitions/*"
    if scope.output_key is not None:
        yield from keys("EncryptDefinitions", ["kms:Decrypt", "kms:GenerateDataKey"], [scope.output_key], scope)
    yield allow("StoreDefinitions", ["s3:GetObject", "s3:PutObject"], [definitions])
    yield allow("FindBucket", ["s3:ListBucket"], [f"arn:{scope.partition}:s3:::{scope.bucket}"])
    yield from _doctor(steps, scope)
    yield from _endpoint(steps, scope)


def _doctor(steps: list[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """What `millrace doctor` looks at; nothing else needs it."""
    yield allow("DoctorLooksAtRoles", ["iam:GetRole"], {scope.role, scope.schedule_role})
    images = repositories(steps, scope)
    if images:
        yield allow("DoctorLooksAtImages", ["ecr:DescribeImages"], images)
    yield allow("DoctorLooksAtQuotas", ["servicequotas:ListServiceQuotas"], ["*"])


def _endpoint(steps: list[Mapping[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """What `millrace endpoint` asks for; nothing else needs it."""
    kinds = {step["Type"] for step in steps}
    if not kinds & {"Endpoint", "RegisterModel"}:
        return
    for name, actions, resources in (
        (
            "EndpointChanges",
            ("AddTags", "CreateEndpoint", "DeleteEndpoint", "DeleteTags", "DescribeEndpoint", "ListTags",
             "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities"),
            [scope.arn(f"endpoint/{name}") for name in endpoint_names(steps)],
        ),
        (
            "EndpointConfigs",
            ("AddTags", "CreateEndpointConfig", "CreateModel", "DeleteEndpointConfig", "DescribeEndpointConfig",
             "DescribeModel"),
            [scope.arn("endpoint-config/*"), scope.arn("model/*")],
        ),
    ):  # fmt: skip
        yield allow(name, [f"sagemaker:{action}" for action in actions], resources)
    groups = {
        pattern_of(step["Arguments"].get("ModelPackageGroupName", "*"))
        for step in steps
        if step["Type"] == "RegisterModel"
    }
    if groups:
        places = [scope.arn(f"{kind}/{group}") for group in groups for kind in ("model-package-group", "model-package")]
        versions = [scope.arn(f"model-package/{group}/*") for group in groups]
        yield allow(
            "EndpointVersions", ["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"], places + versions
        )
    yield from scaling(scope)
    watched = alarms(steps, scope)
    if watched:
        yield allow("WatchRollout", ["cloudwatch:DescribeAlarms"], watched)
    if scope.volume_key is not None:
        condition = {"kms:GrantIsForAWSResource": "true"}
        yield from keys(
            "EndpointVolumes", ["kms:CreateGrant", "kms:DescribeKey"], [scope.volume_key], scope, Bool=condition
        )


def scheduling(scope: Scope) -> Iterator[dict[str, Any]]:
    """What a person must be allowed who schedules runs of this pipeline."""
    actions = ("CreateSchedule", "DeleteSchedule", "GetSchedule", "UpdateSchedule")
    schedules = scope.arn("schedule/default/*", "scheduler")
    yield allow("ScheduleRuns", [f"scheduler:{name}" for name in actions], [schedules])
    handed = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    yield allow("HandOnScheduleRole", ["iam:PassRole"], [scope.schedule_role], handed)
