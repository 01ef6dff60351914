"""`millrace doctor target=kubeflow`: what is missing, and the line that mends it.

The cluster is a stand-in that answers discovery and access reviews as the Kubernetes API does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.registry import load_pipeline
from millrace.services.finding import Finding
from millrace.services.kubeflow.cluster import examine_cluster
from millrace.specs import Distribution, PipelineSpec
from millrace.targets.kubeflow import Kubeflow, Tuning
from tests.services.kubeflow.fake_server import FakeKubeflow, RefusalError

TOKEN = "kube-token-that-nobody-should-see"
ALL = {
    "/apis/trainer.kubeflow.org/v1alpha1": ["trainjobs"],
    "/apis/kubeflow.org/v2beta1": ["mpijobs"],
    "/apis/serving.kserve.io/v1beta1": ["inferenceservices"],
    "/apis/kubeflow.org/v1beta1": ["experiments"],
}


class Cluster:
    """A Kubernetes API: the kinds that it serves, and who may what."""

    def __init__(self) -> None:
        self.served = dict(ALL)
        self.runtimes = {"millrace"}
        self.may_ask = True
        self.denied: set[str] = set()
        self.reviews: list[dict[str, Any]] = []
        self.token = TOKEN
        self.url = ""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/version/":
            names = ("major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
            return 200, dict.fromkeys(names, "") | {"gitVersion": "v1.31.0"}
        if path.endswith("accessreviews"):
            return self.review(path, body)
        if path in self.served:
            return 200, {"resources": [{"name": name} for name in self.served[path]]}
        versions = [{"version": known.rpartition("/")[2]} for known in self.served if known.startswith(f"{path}/")]
        if versions:
            return 200, {"versions": versions}
        if "/trainingruntimes/" in path and path.rpartition("/")[2] in self.runtimes:
            return 200, {"kind": "TrainingRuntime"}
        return 404, {"message": "not found"}

    def review(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.endswith("/subjectaccessreviews") and not self.may_ask:
            return 403, {"message": "forbidden"}
        self.reviews.append(body["spec"])
        wanted = body["spec"]["resourceAttributes"]
        allowed = f"{wanted['verb']} {wanted['resource']}" not in self.denied
        return 201, {"spec": body["spec"], "status": {"allowed": allowed}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster, and the kube context that leads to it."""
    kept = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            status, answer = kept.answer(self.command, self.path, body)
            if self.headers.get("authorization") != f"Bearer {kept.token}":
                status, answer = 401, {"message": "Unauthorized"}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    content = {
        "clusters": [{"name": "lab", "cluster": {"server": kept.url}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "current-context": "lab",
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("KUBECONFIG", str(file))
    yield kept
    server.shutdown()
    server.server_close()


class Doctor:
    """What `millrace doctor target=kubeflow` prints."""

    def __call__(self, *words: str, own: bool = False) -> list[str]:
        command = [sys.executable, "-m", "millrace", "doctor", *([] if own else ["target=kubeflow"]), *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert TOKEN not in answer.stdout + answer.stderr
        return answer.stdout.splitlines()


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.chdir(tmp_path)
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Doctor()


@pytest.fixture
def two_hosts() -> PipelineSpec:
    """The pipeline `digits`, trained on two hosts."""
    pipeline = load_pipeline("digits")
    spec = pipeline.compose(pipeline.config())
    tasks = [
        task.model_copy(update={"distribution": Distribution(mode="ranks", hosts=2)}) if task.name == "train" else task
        for task in spec.tasks
    ]
    return spec.model_copy(update={"tasks": tuple(tasks)})


def after(lines: list[str], start: str) -> tuple[str, str]:
    """The line that begins so, and the one below it."""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(start):
            return line, below
    raise AssertionError("\n".join(lines))


def test_without_a_cluster_says_what_was_not_looked_at(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    lines = doctor()
    after(lines, "ok       packages to compile and services: kfp ")
    after(lines, "-        API of Kubeflow Pipelines: not looked at, no target.api.host is given")
    after(lines, "-        cluster: not looked at, there is no kube context; needed there: inferenceservices.serving")


def test_without_an_engine_names_the_line_that_starts_it(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    _, mend = after(doctor(), "MISSING  Docker engine")
    assert mend == "         mend it: sudo systemctl start docker"


def test_takes_a_target_of_the_users_own(doctor: Doctor, fake: FakeKubeflow, tmp_path: Path) -> None:
    folder = tmp_path / "my_config" / "target"
    folder.mkdir(parents=True)
    (folder / "lab.yaml").write_text(f"defaults:\n  - kubeflow\napi:\n  host: {fake.url}\n")
    lines = doctor("--config-dir", "my_config", "target=lab", own=True)
    after(lines, f"ok       API of Kubeflow Pipelines at {fake.url}, version 2.17.0")


class TestTheApi:
    def test_of_the_right_version(self, doctor: Doctor, fake: FakeKubeflow) -> None:
        lines = doctor(f"target.api.host={fake.url}")
        after(lines, f"ok       API of Kubeflow Pipelines at {fake.url}, version 2.17.0")
        after(lines, "ok       documents for target.compat=2.17, backend 2.17.0")
        after(lines, "ok       pipelines and runs can be listed")

    @pytest.mark.parametrize(
        ("tag", "line", "mend"),
        [
            ("2.15.2", "MISSING  documents for target.compat=2.17", "compile with target.compat=2.15"),
            ("2.5.0", "MISSING  documents for target.compat=2.17", "upgrade Kubeflow Pipelines to 2.14"),
            ("master", "-        version 'master' can't be compared", ""),
        ],
    )
    def test_of_another_version(self, doctor: Doctor, fake: FakeKubeflow, tag: str, line: str, mend: str) -> None:
        fake.tag = tag
        _, below = after(doctor(f"target.api.host={fake.url}"), line)
        assert mend in below

    def test_that_refuses_is_told(self, doctor: Doctor, fake: FakeKubeflow) -> None:
        fake.broken = lambda method, path: RefusalError(403, "not yours") if path.endswith("/runs") else None
        after(doctor(f"target.api.host={fake.url}"), "MISSING  pipelines and runs can't be listed: ")
        after(
            doctor("target.api.host=http://127.0.0.1:1"), "MISSING  API of Kubeflow Pipelines: http://127.0.0.1:1 can't"
        )


class TestTheCluster:
    def test_that_has_everything(self, two_hosts: PipelineSpec, cluster: Cluster) -> None:
        target = Kubeflow(tuning=Tuning(kind="katib"))
        found = {finding.what: finding.good for finding in examine_cluster(two_hosts, target)}
        assert found[f"Kubernetes v1.31.0 at {cluster.url}"]
        assert found["trainjobs.trainer.kubeflow.org v1alpha1 (this pipeline needs it)"]
        assert found["inferenceservices.serving.kserve.io v1beta1 (this pipeline needs it)"]
        assert found["mpijobs.kubeflow.org v2beta1 (this pipeline does not need it)"]
        assert found["TrainingRuntime millrace in kubeflow"]
        assert set(found.values()) == {True}

    def test_that_lacks_what_the_pipeline_needs(self, two_hosts: PipelineSpec, cluster: Cluster) -> None:
        cluster.served = {"/apis/kubeflow.org/v1": ["notebooks"]}
        found = {finding.what: finding for finding in examine_cluster(two_hosts, Kubeflow())}
        needed = "trainjobs.trainer.kubeflow.org v1alpha1: nothing of its group is installed; this pipeline needs it"
        other = "experiments.kubeflow.org v1beta1: only v1 of the group is installed; this pipeline does not need it"
        assert found[needed].good is False
        assert "kubeflow/trainer.git" in found[needed].mend
        assert found[other].good is None

    def test_that_lacks_the_runtime(self, two_hosts: PipelineSpec, cluster: Cluster) -> None:
        cluster.runtimes = set()
        found = {finding.what: finding for finding in examine_cluster(two_hosts, Kubeflow())}
        missing = found["TrainingRuntime millrace in kubeflow"]
        assert missing == Finding(False, missing.what, "kubectl apply -n kubeflow -f containers/train/runtime.yaml")

    @pytest.mark.parametrize("may_ask", [True, False])
    def test_whose_account_lacks_a_right(self, two_hosts: PipelineSpec, cluster: Cluster, may_ask: bool) -> None:
        """Asked for the runs' account; who must not ask for others asks for themselves."""
        cluster.may_ask = may_ask
        cluster.denied = {"create trainjobs"}
        target = Kubeflow(service_account="trainer", namespace="team")
        found = next(item for item in examine_cluster(two_hosts, target) if item.what.startswith("permissions"))
        who = "service account trainer" if may_ask else "you"
        assert found.what == f"permissions in team, asked for {who}: no create trainjobs.trainer.kubeflow.org"
        assert found.mend == "millrace rbac pipeline=digits target=kubeflow | kubectl apply -f -"
        users = {review.get("user") for review in cluster.reviews}
        assert users == {"system:serviceaccount:team:trainer" if may_ask else None}
        cluster.denied = set()
        assert all(item.good is not False for item in examine_cluster(two_hosts, target))

    def test_that_does_not_know_who_asks(self, doctor: Doctor, cluster: Cluster) -> None:
        cluster.token = "another"
        after(doctor(), f"MISSING  cluster at {cluster.url} answers 401 Unauthorized")

    def test_that_is_away(
        self, doctor: Doctor, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "away"
        file.write_text((tmp_path / "kubeconfig").read_text().replace(cluster.url, "http://127.0.0.1:1"))
        monkeypatch.setenv("KUBECONFIG", str(file))
        after(doctor(), "MISSING  cluster at http://127.0.0.1:1 can't be reached: ")
        after(doctor("target.api.kube_context=moon"), "MISSING  kube context moon: ")
