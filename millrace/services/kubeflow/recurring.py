"""Schedules: recurring runs, one for each name, replaced only when they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import JsonValue

from millrace.errors import ConfigError
from millrace.services.kubeflow.connection import Connection, filtered, in_path
from millrace.services.kubeflow.cron import six_fields
from millrace.services.kubeflow.document import Document, given_parameters
from millrace.services.kubeflow.marks import digest, mark, read_mark
from millrace.services.kubeflow.runs import experiment_id
from millrace.services.kubeflow.versions import upload_document
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.runs import Schedule, Submit

__all__ = ["Scheduled", "change_state", "schedule_runs"]


class Scheduled(NamedTuple):
    """A schedule on the target."""

    schedule_id: str
    link: str
    change: str
    """What happened: made, replaced, unchanged, enabled, disabled, deleted."""
    trigger: str


def schedule_runs(
    connection: Connection, document: Document, target: Kubeflow, submit: Submit, schedule: Schedule
) -> Scheduled:
    """Make the schedule of this name what is asked for.

    A schedule that differs is replaced: the new one is made disabled, the old one is disabled, the new one is
    enabled, the old one is deleted. At no time do two of them start runs, and what a killed call has left is
    finished by the next.

    Raises:
        ConfigError: When the schedule or the parameters are wrong, or the name is another's.
        ServiceError: When the API can't be reached or refuses.
    """
    name = schedule.name or document.name
    trigger = _trigger(schedule)
    parameters = given_parameters(document, submit.parameters)
    content = digest(
        version=document.version,
        trigger=trigger,
        parameters=parameters,
        catch_up=schedule.catch_up,
        concurrency=schedule.concurrency,
        experiment=submit.experiment,
        pipeline_root=target.pipeline_root,
        service_account=target.service_account,
    )
    existing = _of_this_name(connection, name)
    same = [item for item in existing if read_mark("schedule", item) == (_word(name), content)]
    others = [item for item in existing if item not in same[:1]]
    state = schedule.state or _state(same, others)
    if same:
        kept = same[0]
    else:
        fields: dict[str, JsonValue] = {
            "display_name": name,
            "description": f"{mark('schedule', _word(name), content)} {state} when made",
            "trigger": trigger,
            "runtime_config": _runtime(target, parameters),
            "mode": "ENABLE" if state == "enabled" and not others else "DISABLE",
        }
        kept = _create(connection, document, target, submit, schedule, fields)
    switched = _take_over(connection, kept, others, state)
    change = ("replaced" if others else "made") if not same else state if switched else "unchanged"
    return Scheduled(
        str(kept["recurring_run_id"]), _link(connection, kept["recurring_run_id"]), change, _told(schedule)
    )


def _state(same: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """Whether a schedule shall start runs, when nobody says so now: as the one before it, or from the start."""
    if same and others:  # an earlier call was killed while it replaced them; they may be disabled by now
        return "enabled" if " enabled when made" in same[0]["description"] else "disabled"
    before = same or others
    return "enabled" if not before or any(item.get("status") == "ENABLED" for item in before) else "disabled"


def _take_over(
    connection: Connection, kept: Mapping[str, Any], others: Sequence[Mapping[str, Any]], state: str
) -> bool:
    """Give one schedule the place of the others; whether it had to be switched itself."""
    for item in others:
        _act(connection, item, "disabled")
    switched = kept.get("status") != state.upper()
    if switched:
        _act(connection, kept, state)
    for item in others:
        _act(connection, item, "deleted")
    return switched


def _create(
    connection: Connection,
    document: Document,
    target: Kubeflow,
    submit: Submit,
    schedule: Schedule,
    fields: dict[str, JsonValue],
) -> dict[str, Any]:
    version = upload_document(connection, document)
    body: dict[str, JsonValue] = {
        **fields,
        "experiment_id": experiment_id(connection, submit.experiment),
        "pipeline_version_reference": {
            "pipeline_id": version.pipeline_id,
            "pipeline_version_id": version.version_id,
        },
        "no_catchup": not schedule.catch_up,
        "max_concurrency": str(schedule.concurrency),
    }
    if target.service_account:
        body["service_account"] = target.service_account
    return connection.post("/recurringruns", body)


def _runtime(target: Kubeflow, parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
    root: dict[str, JsonValue] = {"pipeline_root": target.pipeline_root} if target.pipeline_root else {}
    return {"parameters": parameters, **root}


def _act(connection: Connection, item: Mapping[str, Any], state: str) -> None:
    path = f"/recurringruns/{in_path(str(item['recurring_run_id']))}"
    if state == "deleted":
        connection.delete(path)
    else:
        connection.post(f"{path}:{_ACTIONS[state]}")


def change_state(connection: Connection, name: str, state: str) -> Scheduled:
    """Enable, disable or delete the schedules of a name.

    Raises:
        ConfigError: When there is none.
    """
    existing = _of_this_name(connection, name)
    if not existing and state != "deleted":
        raise ConfigError(
            f"there is no schedule called {name!r}: make one with schedule.cron or schedule.interval_seconds"
        )
    for item in existing:
        _act(connection, item, state)
    first = str(existing[0]["recurring_run_id"]) if existing else ""
    return Scheduled(first, _link(connection, first), state if existing else "not there", "")


_ACTIONS = {"enabled": "enable", "disabled": "disable"}


def _of_this_name(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The schedules of a name, ours only: those that others have made are not ours to replace."""
    found = connection.find("/recurringruns", "recurringRuns", filter=filtered(display_name=name))
    for item in found:
        if read_mark("schedule", item) is None:
            link = _link(connection, str(item["recurring_run_id"]))
            raise ConfigError(
                f"a schedule called {name!r} exists that Millrace did not make ({link}): "
                "choose another schedule.name, or delete it in the UI"
            )
    return found


def _link(connection: Connection, schedule_id: str) -> str:
    return f"{connection.ui}/#/recurringrun/details/{schedule_id}" if schedule_id else ""


def _trigger(schedule: Schedule) -> dict[str, JsonValue]:
    if (schedule.cron is None) == (schedule.interval_seconds is None):
        raise ConfigError("schedule: give either schedule.cron='0 3 * * *' or schedule.interval_seconds=3600")
    if schedule.start and schedule.end and _moment(schedule.start) >= _moment(schedule.end):
        raise ConfigError(f"schedule.end ({schedule.end}) must be later than schedule.start ({schedule.start})")
    span: dict[str, JsonValue] = {}
    if schedule.start:
        span["start_time"] = _moment(schedule.start)
    if schedule.end:
        span["end_time"] = _moment(schedule.end)
    if schedule.cron is not None:
        return {"cron_schedule": {"cron": six_fields(schedule.cron), **span}}
    return {"periodic_schedule": {"interval_second": str(schedule.interval_seconds), **span}}


def _moment(moment: datetime) -> str:
    """RFC 3339 in UTC; a time without a zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _told(schedule: Schedule) -> str:
    if schedule.cron is not None:
        return f"cron {six_fields(schedule.cron)} (second minute hour day month weekday, in the backend's time zone)"
    return f"every {schedule.interval_seconds} s"


def _word(name: str) -> str:
    return "_".join(name.split())
