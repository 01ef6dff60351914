"""Schedules: EventBridge Scheduler starts executions of a pipeline, one schedule for each name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from millrace.errors import ConfigError, UnsupportedError
from millrace.services.sagemaker.cron import schedule_expression
from millrace.services.sagemaker.document import Document
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.links import console
from millrace.services.sagemaker.pipelines import pipeline_role, upsert_pipeline
from millrace.services.sagemaker.runs import filled_parameters
from millrace.services.sagemaker.session import Session
from millrace.targets.runs import Schedule, Submit

__all__ = ["Scheduled", "change_state", "schedule_runs"]

_STATES = {"enabled": "ENABLED", "disabled": "DISABLED"}
_COMPARED = ("ScheduleExpression", "ScheduleExpressionTimezone", "State", "FlexibleTimeWindow", "StartDate", "EndDate")


class Scheduled(NamedTuple):
    """A schedule of EventBridge's."""

    name: str
    change: str
    """What happened: made, changed, unchanged, enabled, disabled, deleted."""
    trigger: str
    link: str


def schedule_runs(session: Session, document: Document, submit: Submit, schedule: Schedule) -> Scheduled:
    """Make the schedule of this name what is asked for, and the pipeline what the document says.

    Raises:
        ConfigError: When the schedule or the parameters are wrong.
        UnsupportedError: For what EventBridge does not know.
        ServiceError: When AWS can't be reached or refuses.
    """
    _refuse(submit, schedule)
    name = _name(schedule, document.name)
    expression = schedule_expression(schedule)
    start, end = _moment(schedule.start), _moment(schedule.end)
    if start and end and end <= start:
        raise ConfigError(f"schedule.end={schedule.end}: it must be after schedule.start={schedule.start}")
    parameters = filled_parameters(session, document, submit.parameters)
    role = pipeline_role(session.target, parameters)
    found = _find(session, name)
    state = schedule.state or _state_of(found)
    pipeline = upsert_pipeline(session, document, role)
    asked: dict[str, Any] = {
        "Name": name,
        "Description": f"Runs of the pipeline {document.name}, by Millrace",
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": "UTC",
        "State": _STATES[state],
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": pipeline.arn,
            "RoleArn": session.target.schedule_role or role,
            "SageMakerPipelineParameters": {
                "PipelineParameterList": [{"Name": key, "Value": value} for key, value in sorted(parameters.items())]
            },
        },
    }
    asked |= {key: value for key, value in (("StartDate", start), ("EndDate", end)) if value}
    return Scheduled(name, _write(session, asked, found), expression, _link(session, name))


def change_state(session: Session, name: str, state: Literal["enabled", "disabled", "deleted"]) -> Scheduled:
    """Turn a schedule on or off, or delete it; what is so already is left alone.

    Raises:
        ConfigError: When there is no such schedule.
        ServiceError: When AWS can't be reached or refuses.
    """
    found = _find(session, name)
    if found is None:
        if state == "deleted":
            return Scheduled(name, "deleted", "", "")
        raise ConfigError(
            f"schedule.name={name}: there is no such schedule in {session.region}: make it with schedule.cron=..."
        )
    if state == "deleted":
        try:
            session.call("scheduler", "delete_schedule", Name=name)
        except ServiceError as error:
            if not error.missing:
                raise
        return Scheduled(name, "deleted", "", "")
    trigger = str(found["ScheduleExpression"])
    if found["State"] == _STATES[state]:
        return Scheduled(name, "unchanged", trigger, _link(session, name))
    kept = ("Description", "ActionAfterCompletion", "KmsKeyArn", "Target", "GroupName", *_COMPARED)
    asked = {key: found[key] for key in kept if found.get(key) is not None} | {"State": _STATES[state]}
    session.call("scheduler", "update_schedule", Name=name, **asked)
    return Scheduled(name, state, trigger, _link(session, name))


def _refuse(submit: Submit, schedule: Schedule) -> None:
    if schedule.catch_up:
        raise UnsupportedError(
            "schedule.catch_up: EventBridge does not start runs that were missed; it is for Kubeflow alone"
        )
    if schedule.concurrency != 1:
        raise UnsupportedError(
            f"schedule.concurrency={schedule.concurrency}: EventBridge starts each run, whether the one before has "
            "ended or not; it is for Kubeflow alone"
        )
    if submit.only or submit.id or submit.name:
        key = "only" if submit.only else "id" if submit.id else "name"
        raise UnsupportedError(f"submit.{key}: it is for `millrace submit`; runs of a schedule get names of their own")
    if submit.experiment != "Default":
        raise UnsupportedError(f"submit.experiment={submit.experiment!r}: a group of runs in Kubeflow")


def _name(schedule: Schedule, default: str) -> str:
    name = schedule.name or default
    if not re.fullmatch(r"[0-9a-zA-Z_.-]{1,64}", name):
        raise ConfigError(
            f"schedule.name={name!r}: EventBridge takes letters, digits, `-`, `_` and `.`, 64 at most: give another"
        )
    return name


def _moment(given: datetime | None) -> datetime | None:
    if given is None:
        return None
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def _find(session: Session, name: str) -> dict[str, Any] | None:
    try:
        return session.call("scheduler", "get_schedule", Name=name)
    except ServiceError as error:
        if error.missing:
            return None
        raise


def _state_of(found: Mapping[str, Any] | None) -> str:
    """Whether a schedule shall start runs, when nobody says so now: as before, or from the start."""
    return "disabled" if found is not None and found["State"] == "DISABLED" else "enabled"


def _write(session: Session, asked: dict[str, Any], found: Mapping[str, Any] | None) -> str:
    if found is None:
        try:
            session.call("scheduler", "create_schedule", **asked)
        except ServiceError as error:
            if error.code != "ConflictException":  # else somebody else was faster
                raise
            found = _find(session, asked["Name"])
        else:
            return "made"
    if found is not None and _same(found, asked):
        return "unchanged"
    session.call("scheduler", "update_schedule", **asked)
    return "changed"


def _same(found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    target = found["Target"]
    return (
        all(found.get(key) == asked.get(key) for key in _COMPARED)
        and target["Arn"] == asked["Target"]["Arn"]
        and target["RoleArn"] == asked["Target"]["RoleArn"]
        and _values(target) == _values(asked["Target"])
    )


def _values(target: Mapping[str, Any]) -> dict[str, str]:
    listed = (target.get("SageMakerPipelineParameters") or {}).get("PipelineParameterList") or []
    return {item["Name"]: item["Value"] for item in listed}


def _link(session: Session, name: str) -> str:
    return f"{console(session.region)}/scheduler/home?region={session.region}#schedules/default/{name}"
