"""Tasks handed to TrainJobs and MPIJobs: real steps and real hosts, with tests in the operators' place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.conftest import Step
from tests.cluster.fake_kubernetes import FakeKubernetes, Object
from tests.cluster.operators import MPI_JOBS, TRAIN_JOBS, Operator
from tests.conftest import SECRET_KEY


def made(server: FakeKubernetes, kind: str, event: str = "ADDED") -> list[Object]:
    return [item for _, what, full_name, item in server.events if full_name == kind and what == event]


def wait_for(reached: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestATrainJob:
    def test_its_hosts_work_together_and_the_step_gives_their_result(
        self, server: FakeKubernetes, operator: Operator, step: Step
    ) -> None:
        step = replace(step, parameters={**step.parameters, "padding": " of $(AWS_REGION) $$ ü"})
        code, out = step.run()
        assert code == 0, out
        answer = step.answer()
        assert answer["parameterValues"] == {"total": 9.0}
        assert answer["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"total": 9.0}
        sums = {"name": "sums", "uri": step.bucket.uri("root/train/sums"), "metadata": {"objects": 1}}
        assert answer["artifacts"]["sums"]["artifacts"] == [sums]
        stored = step.bucket.client.get_object(Bucket=step.bucket.name, Key="root/train/sums/total.txt")
        assert stored["Body"].read() == b"9 on 2 hosts"
        assert not (step.folder / "sums").exists()  # the backend takes none for the one that is uploaded
        assert (step.folder / "metrics" / "metrics.json").exists()
        assert "| total | 9 |" in (step.folder / "summary").read_text()
        assert "[host 0] my part is 4 of $(AWS_REGION) $$ ü" in out
        assert "[host 1] my part is 5 of $(AWS_REGION) $$ ü" in out
        assert SECRET_KEY not in out + str(made(server, TRAIN_JOBS))
        assert len(made(server, TRAIN_JOBS, "DELETED")) == 1
        again, out = step.run()
        assert again == 0, out
        assert "has done this task before" in out
        assert len(made(server, TRAIN_JOBS)) == 1

    def test_a_step_that_is_started_again_follows_the_same_job(
        self, server: FakeKubernetes, operator: Operator, step: Step
    ) -> None:
        operator.hold.clear()
        first = step.start()
        wait_for(lambda: made(server, "pods"))
        first.kill()
        first.communicate()
        server.fail(3, 503)
        second = step.start()
        assert second.stdout is not None
        assert any("is there: following it" in line for line in second.stdout)
        operator.hold.set()
        out, _ = second.communicate(timeout=90)
        assert second.returncode == 0, out
        assert len(made(server, TRAIN_JOBS)) == 1
        assert operator.started == 2

    def test_cancelling_the_step_deletes_the_job(self, server: FakeKubernetes, operator: Operator, step: Step) -> None:
        process = replace(step, parameters={**step.parameters, "behaviour": "hang"}).start()
        wait_for(lambda: operator.started == 2)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGTERM, out
        assert "is deleted" in out
        assert server.objects(TRAIN_JOBS) == []
        wait_for(lambda: all(pod.poll() is not None for pod in operator.running.values()), 20)

    def test_a_failure_names_the_first_host_and_another_attempt_makes_a_new_job(
        self, server: FakeKubernetes, operator: Operator, step: Step
    ) -> None:
        wrong = replace(step, parameters={**step.parameters, "behaviour": "user"})
        code, out = wrong.run()
        assert code == 2
        assert "error: host 1 of 2 failed" in out
        assert "the words are spelt wrongly: 'tobe'; allowed: real words" in out
        assert not wrong.answer_file.exists()
        [left] = server.objects(TRAIN_JOBS)
        code, out = wrong.run()
        assert code == 2
        assert "of an earlier attempt is deleted" in out
        [new] = server.objects(TRAIN_JOBS)
        assert new["metadata"]["name"] == left["metadata"]["name"]
        assert new["metadata"]["uid"] != left["metadata"]["uid"]

    def test_a_host_that_vanishes_is_told_from_those_that_miss_it(self, operator: Operator, step: Step) -> None:
        code, out = replace(step, parameters={**step.parameters, "behaviour": "vanish"}).run()
        assert code == 1
        assert "error: host 1 of 2 failed" in out
        assert "exit code 137" in out

    def test_hosts_find_their_checkpoints_in_the_next_attempt(self, operator: Operator, step: Step) -> None:
        volume = step.folder.parent / "volume"
        pod = step.work.pod.model_copy(
            update={"environment": {**step.work.pod.environment, "MILLRACE_CHECKPOINTS": str(volume)}}
        )
        trying = replace(step.with_work(pod=pod), parameters={**step.parameters, "behaviour": "transient_once"})
        code, out = trying.run()
        assert code == 75
        assert "503 SlowDown" in out
        assert len(list(volume.glob("*/train-*/host-1/begun"))) == 1
        code, out = trying.run()
        assert code == 0, out
        assert list(volume.glob("*/train-*")) == []

    def test_without_its_runtime_the_webhook_says_what_is_missing(
        self, server: FakeKubernetes, operator: Operator, step: Step
    ) -> None:
        code, out = step.with_work(settings={**step.work.settings, "runtime": "others"}).run()
        assert code == 2
        assert 'trainingruntimes.trainer.kubeflow.org "others" not found' in out
        assert server.objects(TRAIN_JOBS) == []


class TestAnMpiJob:
    def test_its_launcher_and_workers_are_hosts(self, server: FakeKubernetes, mpi: Operator, step: Step) -> None:
        code, out = step.with_work(kind="mpijob", settings={**step.work.settings, "keep": True}).run()
        assert code == 0, out
        assert step.answer()["parameterValues"] == {"total": 9.0}
        [job] = server.objects(MPI_JOBS)
        assert job["status"]["conditions"][0]["type"] == "Succeeded"
        assert "[host 1] host 1 of 2: 127.0.0.1" in out

    def test_a_cluster_without_the_operator_is_told_so(self, contracts: Path, step: Step) -> None:
        with FakeKubernetes(contracts, without=[MPI_JOBS]) as bare:
            config = bare.kubeconfig(step.folder.parent / "bare")
            code, out = replace(step.with_work(kind="mpijob"), environment={"KUBECONFIG": str(config)}).run()
        assert code == 2
        assert "the cluster knows no mpijobs.kubeflow.org of version v2beta1: install the MPI Operator" in out


class TestInputs:
    def test_those_of_several_tasks_are_put_together_as_in_the_steps_own_pod(
        self, operator: Operator, step: Step
    ) -> None:
        for name in ("more/9", "many/one/a", "many/one/b", "many/two/c", "many/three/d"):
            step.bucket.put(f"{name}.txt", b"that is")
        uris = {name: step.bucket.uri(name) for name in ("words", "more", "many/one", "many/two", "many/three")}
        inputs = {
            "words": [uris["words"], uris["more"]],
            "more_1": [uris["many/one"], uris["many/two"]],
            "more_2": [uris["many/three"]],
        }
        code, out = replace(step, inputs=inputs, parts=("more_1", "more_2")).run()
        assert code == 0, out
        assert step.answer()["parameterValues"] == {"total": 9 + len("that is") + 4}

    @pytest.mark.parametrize(
        ("uri", "told"),
        [
            ("/s3/words", "is on this machine only"),
            ("oci://registry.example.org/words", "can read s3://, minio:// and gs:// only"),
        ],
    )
    def test_those_that_other_machines_can_not_read_are_refused(
        self, server: FakeKubernetes, step: Step, uri: str, told: str
    ) -> None:
        code, out = replace(step, inputs={"words": [uri]}).run()
        assert code == 2
        assert told in out
        assert server.requests == []

    def test_minio_is_read_from_its_endpoint(self, operator: Operator, step: Step) -> None:
        minio = {"words": [step.bucket.uri("words").replace("s3://", "minio://")]}
        code, out = replace(step, inputs=minio, environment={**step.environment, "AWS_ENDPOINT_URL": ""}).run()
        assert code == 2
        assert "set target.pod.environment.AWS_ENDPOINT_URL" in out

    def test_parameters_that_no_variable_can_hold_are_refused(self, step: Step) -> None:
        code, out = replace(step, parameters={**step.parameters, "padding": "x" * 100_000}).run()
        assert code == 2
        assert "bytes as JSON, a job's pods take 100000" in out
