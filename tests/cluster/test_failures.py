"""Which host failed first, from what Kubernetes says of the pods."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.errors import MillraceError, TaskFailedError, TransientError, UserError
from millrace.runtime.cluster.failures import ended, first_cause, waiting
from millrace.runtime.cluster.remote import HostFailure


def pod(
    message: str = "", *, code: int = 1, reason: str = "Error", at: str = "2026-01-01T00:00:10Z", **more: Any
) -> Any:
    state = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}
    return {"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": state}}], **more}}


def told(kind: str, message: str, at: float) -> str:
    return HostFailure.model_validate({"kind": kind, "message": message, "at": at}).model_dump_json()


AT = 1767225610.0  # 2026-01-01T00:00:10Z

CASES: list[tuple[list[Any], type[MillraceError], str]] = [
    ([pod(told("user", "wrong words", AT + 0.2)), pod(told("transient", "host 0 is gone", AT + 0.5))],
     UserError, "host 0 of 2 failed first: wrong words (1 more failed after it)"),
    ([pod(told("transient", "host 1 is gone", AT + 0.9)), pod(code=137, reason="OOMKilled")],
     TaskFailedError, "host 1 of 2 failed first: memory ran out (OOMKilled); raise resources.memory_gib (1 more"),
    ([pod(told("stopped", "the task was ended by SIGTERM", AT - 5)), pod("Traceback\nSegmentation fault", code=139)],
     TaskFailedError, "host 1 of 2 failed first: exit code 139: Traceback\nSegmentation fault"),
    ([pod(code=143, at="2026-01-01T00:00:01Z"), pod(told("error", "boom", AT))],
     TaskFailedError, "host 1 of 2 failed first: boom"),
    ([pod(code=137, reason="Error"), pod(reason="Error", at="2026-01-01T00:00:12Z")],
     TaskFailedError, "host 0 of 2 failed first: exit code 137"),
    ([{"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}}],
     TransientError, "host 0 of 2 failed: its pod was taken away: Evicted: The node was low on resource: memory."),
    ([pod(code=137, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}])],
     TransientError, "host 0 of 2 failed: its pod was taken away: PreemptionByScheduler"),
    ([], TaskFailedError, "the job failed: DeadlineExceeded: it took too long"),
]  # fmt: skip


@pytest.mark.parametrize(("pods", "kind", "message"), CASES)
def test_the_first_cause_is_told(pods: list[Any], kind: type[MillraceError], message: str) -> None:
    failed = [found for host, item in enumerate(pods) if (found := ended(item, host))]
    error = first_cause(failed, 2, "DeadlineExceeded: it took too long")
    assert type(error) is kind
    assert str(error).startswith(message)


def test_a_pod_that_runs_or_ended_well_did_not_fail() -> None:
    assert ended({"status": {"phase": "Running"}}, 0) is None
    assert ended({}, 0) is None


def test_why_a_pod_does_not_start() -> None:
    pulling = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    assert waiting({"status": {"containerStatuses": [{"state": pulling}]}}) == (
        "ImagePullBackOff",
        "Back-off pulling image",
    )
    creating = {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}
    assert waiting({"status": creating}) == ("", "")
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    assert waiting({"status": {"conditions": [scheduled]}}) == ("Unschedulable", "0/3 nodes")
