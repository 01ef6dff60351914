"""The client against the stand-in API server: verbs, errors that say what to do, patience."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigError, TransientError, UnsupportedError
from millrace.runtime.cluster.api import MPI_JOBS, PODS, TRAIN_JOBS, Cluster, Object, Resource, account_of, connect
from millrace.runtime.cluster.logs import Logs
from tests.cluster.fake_kubernetes import FakeKubernetes


@pytest.fixture
def server(contracts: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(contracts, without=["mpijobs.kubeflow.org"]) as running:
        yield running


@pytest.fixture
def cluster(server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    return connect("team", patience_seconds=2)


def job(name: str = "digits", **spec: object) -> Object:
    return {
        "apiVersion": TRAIN_JOBS.api_version,
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"runtimeRef": {"name": "millrace", "kind": "TrainingRuntime"}, **spec},
    }


def test_objects_are_created_read_changed_listed_and_deleted(cluster: Cluster) -> None:
    assert cluster.get(TRAIN_JOBS, "digits") is None
    created = cluster.create(TRAIN_JOBS, job())
    assert created["spec"]["managedBy"] == "trainer.kubeflow.org/trainjob-controller"
    changed = cluster.patch(TRAIN_JOBS, "digits", {"metadata": {"labels": {"app": None, "more": "x"}}})
    assert changed["metadata"]["labels"] == {"more": "x"}
    for number in range(3):
        cluster.create(TRAIN_JOBS, job(f"other{number}"))
    assert len(cluster.objects(TRAIN_JOBS)) == 4
    assert len(cluster.objects(TRAIN_JOBS, {"app": "other1"})) == 1
    cluster.delete(TRAIN_JOBS, "digits")
    cluster.delete(TRAIN_JOBS, "digits")
    assert cluster.get(TRAIN_JOBS, "digits") is None
    with pytest.raises(ConfigError, match="there is no TrainJob 'digits' in namespace 'team'"):
        cluster.patch(TRAIN_JOBS, "digits", {"metadata": {}})


def test_creating_again_gives_the_first(cluster: Cluster) -> None:
    first = cluster.create(TRAIN_JOBS, job())
    assert cluster.create(TRAIN_JOBS, job(suspend=True))["metadata"]["uid"] == first["metadata"]["uid"]


def test_an_answer_that_is_lost_makes_no_second_object(server: FakeKubernetes, cluster: Cluster) -> None:
    server.fail(1, 1, "POST")
    created = cluster.create(TRAIN_JOBS, job())
    assert created["metadata"]["name"] == "digits"
    assert [request.verb for request in server.requests] == ["create", "create", "get"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"trainer": {"nodes": 2}}, 'unknown field "spec.trainer.nodes"'),
        ({"trainer": {"numNodes": "2"}}, "spec.trainer.numNodes: must be of type integer"),
        ({"trainer": {"resourcesPerNode": {"limits": {"cpu": "two"}}}}, "spec.trainer.resourcesPerNode.limits.cpu"),
        ({"trainer": {"env": [{"name": "A"}, {"name": "A"}]}}, "Duplicate value"),
        ({"runtimeRef": {}}, "spec.runtimeRef.name: Required value"),
    ],
)
def test_the_server_is_strict(cluster: Cluster, spec: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedError, match=r"refuses to create TrainJob 'digits' in namespace 'team'") as caught:
        cluster.create(TRAIN_JOBS, job(**spec))
    assert told in str(caught.value)


def test_a_missing_right_names_account_verb_and_the_line_that_mends_it(
    server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.kubeconfig(tmp_path / "runner", account="runner", namespace="team")
    monkeypatch.setenv("KUBECONFIG", str(config))
    cluster = connect("team")
    server.rules["system:serviceaccount:team:runner"] = [
        {"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"], "verbs": ["get"]}
    ]
    assert cluster.get(TRAIN_JOBS, "digits") is None
    assert cluster.may("get", TRAIN_JOBS)
    assert not cluster.may("create", TRAIN_JOBS)
    assert not cluster.may("get", PODS, "log")
    with pytest.raises(
        ConfigError,
        match=r"system:serviceaccount:team:runner may not create trainjobs\.trainer\.kubeflow\.org in namespace 'team'"
        r"; `millrace rbac pipeline=\.\.\. target=kubeflow` prints",
    ):
        cluster.create(TRAIN_JOBS, job())


def test_a_webhook_that_denies_is_no_missing_right(server: FakeKubernetes, cluster: Cluster) -> None:
    server.deny("trainjobs.trainer.kubeflow.org", lambda item: "spec.runtimeRef: must be created before")
    with pytest.raises(UnsupportedError, match=r"denied the request: spec\.runtimeRef"):
        cluster.create(TRAIN_JOBS, job())


def test_a_type_that_is_not_installed_names_its_operator(cluster: Cluster) -> None:
    for ask in (lambda: cluster.get(MPI_JOBS, "x"), lambda: cluster.objects(MPI_JOBS)):
        with pytest.raises(ConfigError, match=r"knows no mpijobs\.kubeflow\.org of version v2beta1: install the MPI"):
            ask()
    assert cluster.definition(MPI_JOBS) is None
    assert (cluster.definition(TRAIN_JOBS) or {})["spec"]["versions"][0]["name"] == "v1alpha1"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_trouble_that_passes_is_waited_for(server: FakeKubernetes, cluster: Cluster, status: int) -> None:
    server.fail(2, status, Retry_After="0")
    assert cluster.get(TRAIN_JOBS, "digits") is None


def test_trouble_that_stays_is_transient(server: FakeKubernetes, cluster: Cluster) -> None:
    server.fail(1000, 503)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"the cluster's API is out of reach: 503"):
        cluster.get(TRAIN_JOBS, "digits")
    assert time.monotonic() - started < 5


def test_a_log_is_followed_until_the_pod_ends(server: FakeKubernetes, cluster: Cluster) -> None:
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team"}}
    server.put("pods", {**pod, "status": {"phase": "Pending"}})
    with pytest.raises(TransientError, match="waiting to start"):
        list(cluster.log("p", "node"))
    server.set_status("pods", "team", "p", {"phase": "Running"})
    server.append_log("team", "p", "one")

    def later() -> None:
        time.sleep(0.3)
        server.append_log("team", "p", "two ü")
        server.set_status("pods", "team", "p", {"phase": "Succeeded"})

    threading.Thread(target=later).start()
    assert [line.partition(" ")[2] for line in cluster.log("p", "node")] == ["one", "two ü"]
    assert list(cluster.log("none", "node")) == []


def test_a_log_that_breaks_off_goes_on_after_its_last_line(
    server: FakeKubernetes, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team"}}
    server.put("pods", {**pod, "status": {"phase": "Running"}})
    server.append_log("team", "p", "one")
    server.append_log("team", "p", "one")
    server.cut_logs = 1
    logs = Logs(cluster)
    logs.follow("p", "node", 3)
    time.sleep(0.5)
    server.append_log("team", "p", "two")
    server.set_status("pods", "team", "p", {"phase": "Succeeded"})
    logs.ended("p")
    logs.finish(10)
    assert capsys.readouterr().out == "[host 3] one\n[host 3] one\n[host 3] two\n"
    assert server.cut_logs == 0


def test_without_a_way_to_a_cluster_it_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no way to a cluster: .*KUBECONFIG"):
        connect("team")


def test_the_stand_in_streams_watches_as_the_official_client_reads_them(
    server: FakeKubernetes, cluster: Cluster
) -> None:
    from kubernetes import client, watch

    api = client.CustomObjectsApi(cluster.client)
    cluster.create(TRAIN_JOBS, job())
    threading.Timer(0.3, lambda: cluster.delete(TRAIN_JOBS, "digits")).start()
    seen = []
    event: Any
    place = (TRAIN_JOBS.group, TRAIN_JOBS.version, "team", TRAIN_JOBS.plural)
    for event in watch.Watch().stream(api.list_namespaced_custom_object, *place, timeout_seconds=2):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            break
    assert seen == ["ADDED", "DELETED"]


@pytest.mark.parametrize(
    ("claims", "account"),
    [
        ({"sub": "system:serviceaccount:team:default-editor", "aud": ["x"]}, "default-editor"),
        ({"sub": "somebody"}, None),
        ({}, None),
    ],
)
def test_the_account_of_a_token(claims: dict[str, Any], account: str | None) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert account_of(f"e30.{payload}.sig") == account
    assert account_of("no token") is None


def test_names_of_types() -> None:
    assert PODS.api_version == "v1"
    assert Resource("g", "v1", "things", "Thing", "").full_name == "things.g"
