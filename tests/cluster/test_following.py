"""Jobs that do not go on: what the step makes of what it sees. Pods are only shown here, none runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigError, TaskFailedError, UserError
from millrace.runtime.cluster import jobs
from millrace.runtime.cluster.api import connect
from millrace.runtime.cluster.remote import HostFailure, RemoteTask
from millrace.runtime.cluster.transfer import write_text
from millrace.runtime.task import TaskResult
from millrace.targets.kubeflow import ClusterWork
from tests.cluster.conftest import NAMESPACE
from tests.cluster.fake_kubernetes import FakeKubernetes, Object
from tests.cluster.operators import TRAIN_JOBS
from tests.conftest import Bucket

Script = Callable[[Object], None]


class Followed:
    """A task that is handed over in this process."""

    def __init__(self, server: FakeKubernetes, s3: Bucket) -> None:
        self.server = server
        self.work = ClusterWork(
            kind="trainjob", namespace=NAMESPACE, image="i:1", hosts=2, settings={"poll_seconds": 0.1, "keep": True}
        )
        self.task = RemoteTask(name="train", run="run", outputs={"model": s3.uri("root/model")})
        self.cluster = connect(NAMESPACE)

    def play(self, script: Script) -> None:
        """What happens when the job is made."""
        self.server.subscribe(TRAIN_JOBS, lambda event, job: script(job) if event == "ADDED" else None)

    def show(self, job: Object, host: int, status: Object) -> None:
        name = job["metadata"]["name"]
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": str(host)}
        metadata = {
            "name": f"{name}-{host}",
            "namespace": NAMESPACE,
            "labels": labels,
            "ownerReferences": [{"uid": job["metadata"]["uid"]}],
        }
        self.server.put("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})

    def end(self, job: Object, kind: str) -> None:
        condition = {"type": kind, "status": "True", "reason": "R", "message": "m"}
        self.server.set_status(TRAIN_JOBS, NAMESPACE, job["metadata"]["name"], {"conditions": [condition]})

    def run(self) -> TaskResult:
        return jobs.work_out(self.cluster, self.work, "train", self.task)

    def result_uri(self, job: Object) -> str:
        [variable] = [item for item in job["spec"]["trainer"]["env"] if item["name"] == "MILLRACE_REMOTE_TASK"]
        return RemoteTask.model_validate_json(variable["value"]).result


@pytest.fixture
def followed(server: FakeKubernetes, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(jobs, "_STUCK_SECONDS", 0.5)
    monkeypatch.setattr(jobs, "_SETTLE_SECONDS", 0.5)
    return Followed(server, s3)


def failed(message: str) -> Object:
    state = {"exitCode": 2, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}
    return {"phase": "Failed", "containerStatuses": [{"name": "node", "state": {"terminated": state}}]}


def test_pods_that_can_not_start_end_the_job(followed: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    reason = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1"'}
    status = {"phase": "Pending", "containerStatuses": [{"name": "node", "state": {"waiting": reason}}]}
    followed.play(lambda job: followed.show(job, 1, status))
    with pytest.raises(ConfigError, match=r"the hosts can't start: ImagePullBackOff: Back-off pulling image \"i:1\""):
        followed.run()
    assert followed.server.objects(TRAIN_JOBS) == []
    assert capsys.readouterr().out.count("host 1 waits: ImagePullBackOff") == 1


def test_a_failed_host_is_not_waited_on_for_ever(followed: Followed) -> None:
    told = HostFailure(kind="user", message="wrong words", at=1.0).model_dump_json()

    def script(job: Object) -> None:
        followed.show(job, 0, {"phase": "Running"})
        followed.show(job, 1, failed(told))

    followed.play(script)
    with pytest.raises(UserError, match="host 1 of 2 failed: wrong words"):
        followed.run()
    assert followed.server.objects(TRAIN_JOBS) == []


def test_what_the_operator_says_is_told_where_no_pod_can(followed: Followed) -> None:
    followed.play(lambda job: followed.end(job, "Failed"))
    with pytest.raises(TaskFailedError, match="the job failed: R: m"):
        followed.run()
    assert len(followed.server.objects(TRAIN_JOBS)) == 1


def test_a_job_that_somebody_deletes(followed: Followed) -> None:
    def script(job: Object) -> None:
        followed.show(job, 0, {"phase": "Running"})
        followed.server.delete(TRAIN_JOBS, NAMESPACE, job["metadata"]["name"])

    followed.play(script)
    with pytest.raises(TaskFailedError, match="was deleted while it ran"):
        followed.run()


def test_a_job_without_a_result_is_an_error_once_and_then_made_again(followed: Followed) -> None:
    made: list[Any] = []

    def script(job: Object) -> None:
        made.append(job)
        if len(made) == 2:
            write_text(TaskResult(outputs={}, metrics={"loss": 1.0}).model_dump_json(), followed.result_uri(job))
        followed.end(job, "Complete")

    followed.play(script)
    with pytest.raises(TaskFailedError, match="went well, but there is no result at s3://"):
        followed.run()
    assert followed.run().metrics == {"loss": 1.0}
    assert len(made) == 2
