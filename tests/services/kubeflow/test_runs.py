"""Runs start once for each id, whatever happens on the way, and are followed to their end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from millrace.errors import ConfigError
from millrace.services.kubeflow import Connection, Document, connect, find_run, follow, read_status
from millrace.services.kubeflow import submit_run as submit_and_settle
from millrace.services.kubeflow.logs import read_log, task_of
from millrace.services.kubeflow.runs import Submitted, fresh_id
from millrace.targets.kubeflow import Api, Kubeflow
from millrace.targets.runs import Submit
from tests.services.kubeflow.conftest import TOKEN
from tests.services.kubeflow.fake_server import FakeKubeflow, RefusalError, pod_of
from tests.services.kubeflow.test_connection import kubeconfig

EXECUTOR, ATTEMPT_0, ATTEMPT_1 = 1053589929, 1938091664, 1602392189
"""FNV-1a of work.root.train.executor, the same with (0) and with (1)."""

submit_run = partial(submit_and_settle, settle=0)
FAST = Submit(parameters={"train.epochs": 3})


@pytest.fixture
def submitted(connection: Connection, document: Document, target: Kubeflow) -> Submitted:
    return submit_run(connection, document, target, FAST, "one")


class TestSubmit:
    def test_says_everything_that_the_api_takes(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        rich = target.model_copy(update={"service_account": "trainer", "pipeline_root": "s3://bucket/runs"})
        submit = Submit(experiment="nightly", name="my run", parameters={"train": {"model": "mlp"}})
        done = submit_run(connection, document, rich, submit, "one")
        run = fake.runs[done.run_id]
        assert run["display_name"] == "my run"
        assert run["service_account"] == "trainer"
        assert run["runtime_config"] == {"parameters": {"train_model": "mlp"}, "pipeline_root": "s3://bucket/runs"}
        assert fake.experiments[run["experiment_id"]]["display_name"] == "nightly"
        assert run["pipeline_version_reference"]["pipeline_version_id"] == done.version.version_id
        assert done.link.endswith(f"/#/runs/details/{done.run_id}")

    def test_of_the_same_id_finds_the_first_run(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow, submitted: Submitted
    ) -> None:
        again = submit_run(connection, document, target, FAST, "one")
        assert (submitted.new, again.new) == (True, False)
        assert again.run_id == submitted.run_id
        assert len(fake.runs) == 1

    def test_of_other_ids_starts_other_runs(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow, submitted: Submitted
    ) -> None:
        for identity in ("on", "one2", "o_e", fresh_id("small"), fresh_id("small")):
            assert submit_run(connection, document, target, FAST, identity).new
        assert len(fake.runs) == 6

    def test_of_the_same_id_with_other_parameters_is_refused(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow, submitted: Submitted
    ) -> None:
        with pytest.raises(ConfigError, match=r"submit\.id=one is the id of run .*other parameters"):
            submit_run(connection, document, target, Submit(), "one")
        assert len(fake.runs) == 1

    def test_goes_on_when_the_answer_was_lost(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        fake.broken = lambda method, path: "lost" if (method, path) == ("POST", "/apis/v2beta1/runs") else None
        assert submit_run(connection, document, target, FAST, "one").run_id in fake.runs
        assert len(fake.runs) == 1

    def test_finds_its_run_beyond_the_first_page(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        first = submit_run(connection, document, target, FAST, "o_e")
        template = fake.runs[first.run_id]
        for number in range(150):  # `_` is any character to the database
            mark = template["description"].replace("run=o_e", "run=one")
            fake.runs[f"0-{number}"] = {**template, "run_id": f"0-{number}", "description": mark}
        assert submit_run(connection, document, target, FAST, "o_e").run_id == first.run_id

    def test_of_an_archived_experiment_is_refused(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        fake.add_experiment("old", state="ARCHIVED")
        with pytest.raises(ConfigError, match=r"submit\.experiment='old' is archived"):
            submit_run(connection, document, target, Submit(experiment="old"), "one")

    def test_by_two_at_once_on_one_machine_starts_one_run(
        self, fake: FakeKubeflow, document: Document, target: Kubeflow
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: submit_run(connect(target), document, target, FAST, "one"), range(4)))
        assert len({item.run_id for item in done}) == len(fake.runs) == 1
        assert sum(item.new for item in done) == 1

    def test_by_two_machines_at_once_leaves_one_run(
        self, fake: FakeKubeflow, document: Document, target: Kubeflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No machine sees the lock of another: both create, and the later run is ended by who made it."""
        both = threading.Barrier(2, timeout=20)
        creating: list[str] = []

        def meet(method: str, path: str) -> None:
            if (method, path) == ("POST", "/apis/v2beta1/runs"):
                creating.append(path)
                both.wait()

        fake.broken = meet
        other = target.model_copy(update={"api": target.api.model_copy(update={"host": fake.url})})
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda at: submit_and_settle(connect(at), document, at, FAST, "one"), (target, other)))
        assert len(creating) == 2
        assert list(fake.runs) == [done[0].run_id] == [done[1].run_id]
        assert sorted(item.new for item in done) == [False, True]

    def test_mends_what_a_killed_one_left(
        self, connection: Connection, fake: FakeKubeflow, document: Document, target: Kubeflow, submitted: Submitted
    ) -> None:
        """The one that lost was killed before it could end its run."""
        extra = {**fake.runs[submitted.run_id], "run_id": "extra", "created_at": "2999-01-01T00:00:00Z"}
        fake.runs["extra"] = extra
        submit_run(connection, document, target, FAST, "one")
        assert list(fake.runs) == [submitted.run_id]


class TestStatus:
    def test_of_a_run_that_waits(self, connection: Connection, submitted: Submitted) -> None:
        status = read_status(connection, submitted.run_id)
        assert (status.state, status.over) == ("pending", False)
        assert [(task.name, task.state) for task in status.tasks] == [("preprocess", "pending"), ("train", "pending")]
        assert status.parameters == {"train_epochs": 3}

    def test_puts_the_passes_of_a_loop_together(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        fake.steps[submitted.run_id] = [{"preprocess#0": "SUCCEEDED", "preprocess#1": "RUNNING"}]
        preprocess, train = read_status(connection, submitted.run_id).tasks
        assert (preprocess.state, preprocess.detail) == ("running", "1 of 2 passes done")
        assert preprocess.seconds is not None
        assert (train.state, train.seconds) == ("pending", None)

    def test_of_what_never_began_is_skipped_at_the_end(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        fake.steps[submitted.run_id] = [{"preprocess": "FAILED", "run": "FAILED"}]
        status = read_status(connection, submitted.run_id)
        assert [task.state for task in status.tasks] == ["failed", "skipped"]
        assert status.over
        assert not status.succeeded

    def test_of_an_unknown_run_names_it(self, connection: Connection) -> None:
        with pytest.raises(ConfigError, match="run=nothing: there is no such run"):
            read_status(connection, "nothing")

    def test_outlives_the_version_that_was_deleted(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        fake.versions.clear()
        fake.steps[submitted.run_id] = [{"train": "SUCCEEDED", "run": "SUCCEEDED"}]
        assert [task.name for task in read_status(connection, submitted.run_id).tasks] == ["train"]

    def test_finds_the_latest_run_of_a_pipeline(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        fake.runs["older"] = {**fake.runs[submitted.run_id], "run_id": "older", "created_at": "2000-01-01T00:00:00Z"}
        fake.runs["other"] = {"run_id": "other", "display_name": "x", "created_at": "2999-01-01T00:00:00Z"}
        assert find_run(connection, None, "small") == submitted.run_id
        assert find_run(connection, "any", "small") == "any"

    def test_of_a_pipeline_that_is_not_there(self, connection: Connection) -> None:
        with pytest.raises(ConfigError, match="no pipeline 'none' was uploaded here"):
            find_run(connection, None, "none")


class TestFollowing:
    def test_sees_each_change_until_the_end(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        fake.steps[submitted.run_id] = [
            {},
            {"preprocess": "RUNNING"},
            {"preprocess": "SUCCEEDED", "train": "RUNNING"},
            {"preprocess": "SUCCEEDED", "train": "SUCCEEDED", "run": "SUCCEEDED"},
        ]
        seen: list[list[str]] = []
        last = follow(connection, submitted.run_id, lambda status: seen.append([t.state for t in status.tasks]), 0.01)
        assert last.succeeded
        assert seen[-1] == ["succeeded", "succeeded"]
        assert ["running", "pending"] in seen or ["succeeded", "running"] in seen

    def test_sits_out_a_break(self, connection: Connection, fake: FakeKubeflow, submitted: Submitted) -> None:
        fake.steps[submitted.run_id] = [{"run": "SUCCEEDED", "train": "SUCCEEDED"}]
        left: Iterator[RefusalError | str] = iter(
            [RefusalError(500, "database is away"), "close", "close", "close", RefusalError(500, "starting")]
        )
        fake.broken = lambda method, path: next(left, None) if path.endswith(submitted.run_id) else None
        assert follow(connection, submitted.run_id, lambda status: None, 0.01).succeeded
        assert next(left, None) is None

    def test_an_address_that_never_answered_is_not_waited_for(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = Kubeflow(api=Api(host=f"http://127.0.0.1:{free.getsockname()[1]}"))
        with pytest.raises(ConfigError, match="can't be reached"):
            follow(connect(nobody), "some-run", lambda status: None, 0.01)

    def test_ends_when_it_is_of_no_use(self, connection: Connection, fake: FakeKubeflow, submitted: Submitted) -> None:
        fake.token = "another"
        with pytest.raises(ConfigError, match="401"):
            follow(connection, submitted.run_id, lambda status: None, 0.01)


class TestLogs:
    def test_come_from_the_ui(self, connection: Connection, fake: FakeKubeflow, submitted: Submitted) -> None:
        direct = connect(Kubeflow(api=_direct(fake)))
        fake.token = None
        fake.steps[submitted.run_id] = [{"train": "FAILED", "run": "FAILED"}]
        fake.logs[pod_of("train")] = "epoch 1\nout of memory\n"
        status = read_status(direct, submitted.run_id)
        assert read_log(direct, status, task_of(status, "train"), "kubeflow") == "epoch 1\nout of memory\n"

    def test_come_from_the_pods_themselves_through_a_kube_context(
        self, fake: FakeKubeflow, submitted: Submitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.token = TOKEN
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, fake.url)))
        fake.steps[submitted.run_id] = [{"preprocess#0": "SUCCEEDED", "preprocess#1": "SUCCEEDED", "train": "RUNNING"}]
        for number in range(2):
            fake.pods[f"work-{number}"] = f"work.root.loop.iteration-iterations({number}:{number}).preprocess.executor"
            fake.logs[f"work-{number}"] = f"share {number}\n"
        fake.pods["work-2"] = "work.root.train.executor"
        fake.logs["work-2"] = "epoch 1\n"
        connection = connect(Kubeflow(api=Api(auth="kube_context")))
        status = read_status(connection, submitted.run_id)
        assert read_log(connection, status, task_of(status, "preprocess"), "kubeflow") == "share 0\n\nshare 1\n"
        assert read_log(connection, status, task_of(status, "train"), "kubeflow") == "epoch 1\n"

    def test_of_a_task_that_was_tried_again_are_those_of_the_last_attempt(
        self, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        """Argo names a pod by the FNV-1a hash of its node's name."""
        fake.token = None
        run = fake.runs[submitted.run_id]
        node = {"display_name": "train", "state": "FAILED", "child_tasks": [{"pod_name": f"work-{EXECUTOR}"}]}
        run["run_details"] = {"task_details": [node]}
        fake.logs[f"work-retry-system-container-impl-{ATTEMPT_0}"] = "first attempt"
        fake.logs[f"work-retry-system-container-impl-{ATTEMPT_1}"] = "second attempt"
        direct = connect(Kubeflow(api=_direct(fake)))
        status = read_status(direct, submitted.run_id)
        assert read_log(direct, status, task_of(status, "train"), "kubeflow") == "second attempt"

    def test_are_no_web_page(self, fake: FakeKubeflow, submitted: Submitted) -> None:
        """Dashboards answer unknown paths with their own page."""
        fake.token = None
        fake.steps[submitted.run_id] = [{"train": "FAILED", "run": "FAILED"}]
        fake.broken = lambda method, path: "<html>dashboard</html>" if path.endswith(("logs", "log")) else None
        direct = connect(Kubeflow(api=_direct(fake)))
        status = read_status(direct, submitted.run_id)
        with pytest.raises(ConfigError, match="there is no log of task 'train'"):
            read_log(direct, status, task_of(status, "train"), "kubeflow")

    def test_that_are_gone_name_the_way_to_the_pods(
        self, connection: Connection, fake: FakeKubeflow, submitted: Submitted
    ) -> None:
        direct = connect(Kubeflow(api=_direct(fake)))
        fake.token = None
        fake.steps[submitted.run_id] = [{"train": "FAILED", "run": "FAILED"}]
        status = read_status(direct, submitted.run_id)
        with pytest.raises(ConfigError, match=rf"kubectl logs .*pipeline/runid={submitted.run_id}"):
            read_log(direct, status, task_of(status, "train"), "kubeflow")
        with pytest.raises(ConfigError, match=r"it has not started a container yet"):
            read_log(direct, status, task_of(status, "preprocess"), "kubeflow")
        with pytest.raises(ConfigError, match=r"logs=trai: the run has no such task: did you mean 'train'"):
            task_of(status, "trai")


def _direct(fake: FakeKubeflow) -> Api:
    return Api(host=fake.url)
