"""How an execution goes: the state of each step, in the order of the definition that it was started with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from millrace.compilers.sagemaker.walk import every_step
from millrace.errors import ConfigError
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.links import execution_link
from millrace.services.sagemaker.pipelines import find_pipeline
from millrace.services.sagemaker.runs import execution_arn
from millrace.services.sagemaker.session import Session
from millrace.services.times import seconds_between

__all__ = ["RunStatus", "StepStatus", "find_run", "follow", "read_plan", "read_status"]

_STATES = {
    "Starting": "running",
    "Executing": "running",
    "Stopping": "running",
    "Stopped": "cancelled",
    "Failed": "failed",
    "Succeeded": "succeeded",
    "CompletedWithFailures": "failed",
}
_ENDED = ("Stopped", "Failed", "Succeeded", "CompletedWithFailures")
_PATIENCE_SECONDS = 300
_LATEST = 100
_UNTOLD = "states of steps are not told: what answers here does not know ListPipelineExecutionSteps (AWS does)"


@dataclass(frozen=True)
class StepStatus:
    """One step of an execution."""

    name: str
    kind: str
    """Type of the step: Processing, Training, Condition..."""
    state: str
    """pending, running, succeeded, cached, failed, skipped, cancelled; unknown where steps are not told."""
    started: datetime | None = None
    ended: datetime | None = None
    detail: str = ""
    arn: str = ""
    """Of its job, its model or its endpoint."""

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken until now."""
        return seconds_between(self.started, self.ended)


@dataclass(frozen=True)
class RunStatus:
    """An execution as it is now."""

    arn: str
    name: str
    state: str
    link: str
    created: datetime | None
    ended: datetime | None
    error: str
    parameters: Mapping[str, str]
    steps: tuple[StepStatus, ...]
    note: str = ""
    """What could not be found out."""

    @property
    def run_id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rpartition("/")[2]

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.state == "succeeded"


@dataclass(frozen=True)
class Plan:
    """What does not change while an execution goes on."""

    arn: str
    kinds: Mapping[str, str]
    """Types of its steps by their names, in the order of the definition."""
    parameters: Mapping[str, str]
    link: str
    told: bool = True
    """Whether who answers knows about steps; a stand-in of AWS may not."""


def find_run(session: Session, run: str | None, pipeline: str) -> str:
    """ARN of the execution that is asked about: given, or the latest of a pipeline.

    Raises:
        ConfigError: When the pipeline or its executions do not exist.
        ServiceError: When AWS can't be reached or refuses.
    """
    if run and run.startswith("arn:"):
        return execution_arn(session, "", run)
    found = find_pipeline(session, pipeline)
    if found is None:
        raise ConfigError(
            f"there is no pipeline {pipeline!r} in {session.region}: start one with `millrace submit`, or name a run "
            "by its ARN: run=arn:aws:sagemaker:..."
        )
    if run:
        return execution_arn(session, str(found["PipelineArn"]), run)
    listed = session.pages(
        "sagemaker",
        "list_pipeline_executions",
        "PipelineExecutionSummaries",
        PipelineName=pipeline,
        SortBy="CreationTime",
        SortOrder="Descending",
        MaxResults=_LATEST,
    )
    # the first one on AWS; stand-ins of it may list them in any order
    latest = max(islice(listed, _LATEST), key=lambda item: item["StartTime"], default=None)
    if latest is not None:
        return str(latest["PipelineExecutionArn"])
    raise ConfigError(f"pipeline {pipeline!r} has no run yet: start one with `millrace submit`")


def read_plan(session: Session, arn: str) -> Plan:
    """The steps and the parameters of an execution.

    Raises:
        ConfigError: When there is no such execution.
        ServiceError: When AWS can't be reached or refuses.
    """
    try:
        told = session.call("sagemaker", "describe_pipeline_definition_for_execution", PipelineExecutionArn=arn)
    except ServiceError as error:
        if error.missing:
            raise ConfigError(f"run={arn}: there is no such run in {session.region}") from None
        raise
    given = session.pages(
        "sagemaker", "list_pipeline_parameters_for_execution", "PipelineParameters", PipelineExecutionArn=arn
    )
    name = arn.split("/")[1]
    return Plan(
        arn,
        dict(_kinds(str(told.get("PipelineDefinition") or ""))),
        {str(item["Name"]): str(item["Value"]) for item in given},
        execution_link(session, name, arn.rpartition("/")[2]),
    )


def read_status(session: Session, plan: Plan) -> RunStatus:
    """The state of an execution and of its steps.

    Raises:
        ServiceError: When AWS can't be reached or refuses.
    """
    # first: of an execution that has ended, all steps have
    run = session.call("sagemaker", "describe_pipeline_execution", PipelineExecutionArn=plan.arn)
    listed = _listed(session, plan) if plan.told else None
    word = str(run["PipelineExecutionStatus"])
    if listed is None:
        steps = tuple(StepStatus(name, kind, "unknown") for name, kind in plan.kinds.items())
    else:
        steps = tuple(_steps(plan, listed, _chosen(run), over=word in _ENDED))
    return RunStatus(
        arn=plan.arn,
        name=str(run.get("PipelineExecutionDisplayName") or plan.arn.rpartition("/")[2]),
        state=_STATES.get(word, "running"),
        link=plan.link,
        created=run.get("CreationTime"),
        ended=run.get("LastModifiedTime") if word in _ENDED else None,
        error=str(run.get("FailureReason") or ""),
        parameters=plan.parameters,
        steps=steps,
        note=_UNTOLD if listed is None else "",
    )


def follow(session: Session, plan: Plan, watch: Callable[[RunStatus], None]) -> RunStatus:
    """Ask again and again until the execution is over; after a first answer, breaks are sat out for five minutes.

    Raises:
        ServiceError: When AWS stays away longer.
    """
    deadline: float | None = None
    answered = False
    while True:
        try:
            status = read_status(session, plan)
            plan = replace(plan, told=not status.note)
            deadline, answered = None, True
        except ServiceError as error:
            deadline = deadline or time.monotonic() + _PATIENCE_SECONDS
            if not (answered and error.may_pass) or time.monotonic() > deadline:
                raise
        else:
            watch(status)
            if status.over:
                return status
        time.sleep(session.target.session.poll_seconds)


def _listed(session: Session, plan: Plan) -> list[dict[str, Any]] | None:
    """Steps that have started; None where who answers does not know the operation."""
    try:
        return list(
            session.pages(
                "sagemaker",
                "list_pipeline_execution_steps",
                "PipelineExecutionSteps",
                PipelineExecutionArn=plan.arn,
                SortOrder="Ascending",
            )
        )
    except ServiceError as error:
        if error.unknown:
            return None
        raise


def _kinds(text: str) -> Iterator[tuple[str, str]]:
    try:
        steps = json.loads(text)["Steps"]
    except (ValueError, KeyError, TypeError):  # it is shown in the order in which its steps have started
        return
    for step in every_step(steps):
        yield str(step["Name"]), str(step["Type"])


def _chosen(run: Mapping[str, Any]) -> set[str] | None:
    """Names of the steps that run in a selective execution; None where all do."""
    config = run.get("SelectiveExecutionConfig")
    return {str(item["StepName"]) for item in config.get("SelectedSteps") or []} if config else None


def _steps(plan: Plan, listed: list[dict[str, Any]], chosen: set[str] | None, over: bool) -> Iterator[StepStatus]:
    begun = {str(item["StepName"]): item for item in listed}
    for name in dict.fromkeys([*plan.kinds, *begun]):
        kind = plan.kinds.get(name, "")
        if name in begun:
            yield _step(name, kind, begun[name])
        else:
            left_out = over or (chosen is not None and name not in chosen)
            yield StepStatus(name, kind, "skipped" if left_out else "pending")


def _step(name: str, kind: str, item: Mapping[str, Any]) -> StepStatus:
    state = _STATES.get(str(item.get("StepStatus")), "running")
    arn = _arn(item)
    told = list(_told(item))
    if (item.get("CacheHitResult") or {}).get("SourcePipelineExecutionArn") and state == "succeeded":
        state = "cached"
    if (item.get("SelectiveExecutionResult") or {}).get("SourcePipelineExecutionArn"):
        state = "skipped"
    return StepStatus(
        name, kind, state, item.get("StartTime"), item.get("EndTime"), "; ".join(dict.fromkeys(told)), arn
    )


def _arn(item: Mapping[str, Any]) -> str:
    told = (metadata for metadata in (item.get("Metadata") or {}).values() if isinstance(metadata, Mapping))
    return next((str(metadata["Arn"]) for metadata in told if metadata.get("Arn")), "")


def _told(item: Mapping[str, Any]) -> Iterator[str]:
    metadata = item.get("Metadata") or {}
    if item.get("StepStatus") in ("Starting", "Stopping"):
        yield str(item["StepStatus"]).lower()
    if int(item.get("AttemptCount") or 0) > 1:
        yield f"attempt {item['AttemptCount']}"
    if "Condition" in metadata and metadata["Condition"].get("Outcome"):
        yield "holds" if metadata["Condition"]["Outcome"] == "True" else "does not hold"
    for key in ("CacheHitResult", "SelectiveExecutionResult"):
        source = (item.get(key) or {}).get("SourcePipelineExecutionArn")
        if source:
            yield f"result of run {str(source).rpartition('/')[2]}"
    if item.get("FailureReason"):
        yield str(item["FailureReason"])
