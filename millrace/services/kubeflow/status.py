"""How a run goes: the state of each task, put together from what the API tells of the workflow's nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from millrace.errors import ConfigError
from millrace.services.kubeflow.connection import Connection, ServiceError, in_path
from millrace.services.kubeflow.document import task_names
from millrace.services.kubeflow.versions import find_pipeline
from millrace.services.times import seconds_between

__all__ = ["RunStatus", "TaskStatus", "find_run", "follow", "read_status"]

_ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_PATIENCE_SECONDS = 300
_PAGES = 20  # the API can't filter runs by their pipeline


@dataclass(frozen=True)
class TaskStatus:
    """One task of a run; of a loop, all its passes together."""

    name: str
    state: str
    """pending, running, succeeded, failed, skipped, cancelled."""
    started: datetime | None = None
    ended: datetime | None = None
    detail: str = ""
    nodes: tuple[str, ...] = ()
    """Ids of the workflow's nodes that run its containers."""

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken until now."""
        return seconds_between(self.started, self.ended)


@dataclass(frozen=True)
class RunStatus:
    """A run as it is now."""

    run_id: str
    name: str
    state: str
    link: str
    created: datetime | None
    ended: datetime | None
    error: str
    parameters: Mapping[str, JsonValue]
    tasks: tuple[TaskStatus, ...]

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state.upper() in (*_ENDED, "CANCELLED")

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.state == "succeeded"


def find_run(connection: Connection, run: str | None, pipeline: str) -> str:
    """Id of the run that is asked about: given, or the latest of a pipeline.

    Raises:
        ConfigError: When the pipeline or its runs do not exist.
    """
    if run:
        return run
    pipeline_id = find_pipeline(connection, pipeline)
    if pipeline_id is None:
        raise ConfigError(f"no pipeline {pipeline!r} was uploaded here: millrace submit, or name a run: run=ID")
    token = None
    for _ in range(_PAGES):
        page = connection.get(
            "/runs", page_size=100, page_token=token, sort_by="created_at desc", namespace=connection.namespace
        )
        for item in page.get("runs") or []:
            if (item.get("pipeline_version_reference") or {}).get("pipeline_id") == pipeline_id:
                return str(item["run_id"])
        token = page.get("next_page_token")
        if not token:
            raise ConfigError(f"pipeline {pipeline!r} has no run yet: start one with `millrace submit`")
    raise ConfigError(f"none of the latest {_PAGES * 100:,} runs is of pipeline {pipeline!r}: name one: run=ID")


def read_status(connection: Connection, run_id: str, spec: Mapping[str, Any] | None = None) -> RunStatus:
    """The state of a run and of its tasks.

    Args:
        connection: Where to.
        run_id: The run's id.
        spec: The run's pipeline spec, when it is known already: it gives the order of the tasks and those that
            have not begun.

    Raises:
        ConfigError: When there is no such run.
        ServiceError: When the API can't be reached or refuses.
    """
    try:
        run = connection.get(f"/runs/{in_path(run_id)}")
    except ServiceError as error:
        if error.status == 404:
            raise ConfigError(f"run={run_id}: there is no such run at {connection.host}") from None
        raise
    spec = run_spec(connection, run) if spec is None else spec
    nodes = (run.get("run_details") or {}).get("task_details") or []
    state = _word(run.get("state"))
    return RunStatus(
        run_id=run_id,
        name=str(run.get("display_name") or run_id),
        state=state,
        link=f"{connection.ui}/#/runs/details/{run_id}",
        created=_time(run.get("created_at")),
        ended=_time(run.get("finished_at")),
        error=_error(run),
        parameters=(run.get("runtime_config") or {}).get("parameters") or {},
        tasks=tuple(_tasks(task_names(spec), nodes, over=state.upper() in (*_ENDED, "CANCELLED"))),
    )


def run_spec(connection: Connection, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pipeline spec that a run was made from, in the run itself or in its version."""
    reference = run.get("pipeline_version_reference") or {}
    found = run.get("pipeline_spec")
    if not found and reference.get("pipeline_version_id"):
        pipeline, version = in_path(reference["pipeline_id"]), in_path(reference["pipeline_version_id"])
        try:
            found = connection.get(f"/pipelines/{pipeline}/versions/{version}").get("pipeline_spec")
        except ServiceError as error:
            if error.status != 404:  # the version was deleted; the run is still there
                raise
    inner = (found or {}).get("pipeline_spec")
    return inner if isinstance(inner, dict) else found or {}


def follow(connection: Connection, run_id: str, watch: Callable[[RunStatus], None], pause: float = 5.0) -> RunStatus:
    """Ask again and again until the run is over; after a first answer, breaks are sat out for five minutes.

    Raises:
        ServiceError: When the API stays away longer.
    """
    spec: Mapping[str, Any] | None = None
    deadline: float | None = None
    answered = False
    while True:
        try:
            if spec is None:
                spec = run_spec(connection, connection.get(f"/runs/{in_path(run_id)}")) or None
            status = read_status(connection, run_id, spec)
            deadline, answered = None, True
        except ServiceError as error:
            answered = answered or error.status is not None
            deadline = deadline or time.monotonic() + _PATIENCE_SECONDS
            if not (answered and error.may_pass) or time.monotonic() > deadline:
                raise
        else:
            watch(status)
            if status.over:
                return status
        time.sleep(pause)


def _tasks(names: Sequence[str], nodes: Sequence[Mapping[str, Any]], over: bool) -> Iterator[TaskStatus]:
    """Tasks in the order of the document. Their nodes carry the task's name, their drivers `NAME-driver`."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        by_name.setdefault(str(node.get("display_name")), []).append(node)
    for name in names or _guessed(by_name):
        passes = by_name.get(name, [])
        drivers = by_name.get(f"{name}-driver", [])
        states = [_word(node.get("state")) for node in passes]
        failed_drivers = [node for node in drivers if _word(node.get("state")) == "failed"]
        state = _together(states, over)
        if failed_drivers and state in ("pending", "skipped"):
            state = "failed"
        yield TaskStatus(
            name=name,
            state="running" if state == "pending" and drivers and not over else state,
            started=min(_times(passes or drivers, "start_time"), default=None),
            ended=max(_times(passes, "end_time"), default=None) if state not in ("running", "pending") else None,
            detail=_detail(states, passes, failed_drivers),
            nodes=tuple(child for node in passes for child in _children(node)),
        )


def _guessed(by_name: Iterable[str]) -> list[str]:
    """Names of tasks when the document is not known: those that have a driver."""
    drivers = [name.removesuffix("-driver") for name in by_name if name.endswith("-driver")]
    return [name for name in drivers if name not in ("root", "iteration", "iteration-item")]


def _together(states: Sequence[str], over: bool) -> str:
    for state in ("failed", "running", "cancelled", "pending", "succeeded", "skipped"):
        if state in states:
            return state
    return "skipped" if over else "pending"


def _detail(states: Sequence[str], passes: Sequence[Mapping[str, Any]], drivers: Sequence[Mapping[str, Any]]) -> str:
    told = [_error(node) for node in (*passes, *drivers)]
    if drivers and not any(told):
        told = ["its driver failed before the container was started"]
    if len(states) > 1:
        ended = sum(state in ("succeeded", "skipped") for state in states)
        told.insert(0, f"{ended} of {len(states)} passes done")
    return "; ".join(dict.fromkeys(text for text in told if text))


def _children(node: Mapping[str, Any]) -> list[str]:
    return [str(child["pod_name"]) for child in node.get("child_tasks") or [] if child.get("pod_name")]


def _error(item: Mapping[str, Any]) -> str:
    return str((item.get("error") or {}).get("message") or "")


def _word(state: object) -> str:
    """The API's state as one of our words."""
    word = str(state or "PENDING").lower()
    return {"canceled": "cancelled", "canceling": "running", "paused": "pending", "omitted": "skipped"}.get(
        word, "pending" if word == "runtime_state_unspecified" else word
    )


def _times(nodes: Iterable[Mapping[str, Any]], key: str) -> list[datetime]:
    return [moment for node in nodes if (moment := _time(node.get(key))) is not None]


def _time(text: object) -> datetime | None:
    """A moment; the API writes the beginning of 1970, or of the calendar, for none."""
    if not text:
        return None
    moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return moment if moment.year > 1970 else None
