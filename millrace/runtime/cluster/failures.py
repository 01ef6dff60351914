"""Which host of a job failed first, and why: the others fail because it did."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError

from millrace.errors import MillraceError, TaskFailedError, TransientError, UserError
from millrace.runtime.cluster.api import Object
from millrace.runtime.cluster.remote import HostFailure

__all__ = ["Ended", "ended", "first_cause", "waiting"]

_LOST = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated", "UnexpectedAdmissionError")
"""Reasons of pods that something outside the task ended."""


class Ended(NamedTuple):
    """A host whose pod failed."""

    host: int
    at: float
    """Seconds since 1970; whole ones when the pod could not say it itself."""
    kind: str
    """user, transient, disk_full, error, or stopped: because others failed."""
    message: str


def ended(pod: Object, host: int) -> Ended | None:
    """How a pod failed; None when it did not."""
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return None
    state = next(iter(_terminated(status)), {})
    at = _seconds(state.get("finishedAt"))
    told = _told(state.get("message", ""))
    reason = str(status.get("reason") or "")
    disrupted = [item for item in status.get("conditions", ()) if item["type"] == "DisruptionTarget"]
    if reason in _LOST or any(item["status"] == "True" for item in disrupted):
        why = reason or disrupted[0].get("reason", "")
        return Ended(host, at, "transient", f"its pod was taken away: {why}: {status.get('message', '')}".rstrip(": "))
    if state.get("reason") == "OOMKilled":
        return Ended(host, at, "error", "memory ran out (OOMKilled); raise resources.memory_gib")
    if told:
        return Ended(host, told.at, told.kind, told.message)
    code = state.get("exitCode")
    said = str(state.get("message") or "").strip()
    kind = "stopped" if code == 143 else "error"
    return Ended(host, at, kind, f"exit code {code}" + (f": {said[-2000:]}" if said else ""))


def first_cause(failed: Iterable[Ended], hosts: int, operator: str) -> MillraceError:
    """The error that tells what went wrong first.

    Args:
        failed: The hosts that failed.
        hosts: How many there are.
        operator: What the job's operator says.
    """
    known = sorted(failed, key=lambda item: (item.kind == "stopped", item.at, item.host))
    if not known:
        return TaskFailedError(f"the job failed: {operator.strip(': ')}")
    first, others = known[0], len(known) - 1
    more = f" ({others} more failed after it)" if others else ""
    message = f"host {first.host} of {hosts} failed{' first' if others else ''}: {first.message}{more}"
    kinds: dict[str, type[MillraceError]] = {"user": UserError, "transient": TransientError}
    return kinds.get(first.kind, TaskFailedError)(message)


def waiting(pod: Object) -> tuple[str, str]:
    """Why a pod does not start: a reason and a sentence; empty when there is none."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {}).get("waiting")
        if state and state.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return str(state.get("reason", "")), str(state.get("message", ""))
    for item in status.get("conditions", ()):
        if item["type"] == "PodScheduled" and item["status"] == "False":
            return str(item.get("reason", "")), str(item.get("message", ""))
    return "", ""


def _terminated(status: Object) -> Iterable[Object]:
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {}).get("terminated")
        if state and state.get("exitCode") != 0:
            yield state


def _told(message: str) -> HostFailure | None:
    try:
        return HostFailure.model_validate_json(message)
    except ValidationError:
        return None


def _seconds(text: str | None) -> float:
    try:
        return datetime.fromisoformat(re.sub(r"Z$", "+00:00", text or "")).timestamp()
    except ValueError:
        return datetime.now(UTC).timestamp()
