"""What jobs look like: strictly valid, and with all that a step is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.runtime.cluster import mpijob, trainjob
from millrace.runtime.cluster.jobs import JOBS, job_name
from millrace.targets.kubeflow import ClusterWork
from tests.cluster.conftest import NAMESPACE
from tests.cluster.fake_kubernetes import FakeKubernetes, Object
from tests.cluster.operators import MPI_JOBS, TRAIN_JOBS, apply_runtime, mpi_pods, train_pods
from tests.cluster.schemas import findings, load_schema

COMMAND = ["millrace", "exec", "train", "--remote"]
TASK = [{"name": "MILLRACE_REMOTE_TASK", "value": "{}"}]


def pods_of(server: FakeKubernetes, work: ClusterWork) -> list[Object]:
    """The pods that the operator would make."""
    kind = JOBS[work.kind]
    body = kind.form.manifest("train-1", work, COMMAND, TASK)
    plural = {"trainjob": TRAIN_JOBS, "mpijob": MPI_JOBS}[work.kind]
    job = server.create(server.named(plural), NAMESPACE, body, strict=True)
    return list({"trainjob": train_pods, "mpijob": mpi_pods}[work.kind](server, job))


@pytest.mark.parametrize("kind", ["trainjob", "mpijob"])
def test_every_setting_reaches_every_pod(server: FakeKubernetes, every_setting: ClusterWork, kind: str) -> None:
    work = every_setting.model_copy(update={"kind": kind})
    pods = pods_of(server, work)
    assert len(pods) == 4
    for pod in pods:
        spec = pod["spec"]
        [container] = spec["containers"]
        amounts = {"cpu": "3500m", "memory": "10240Mi", "amd.com/gpu": "2"}
        assert container["resources"] == {"requests": amounts, "limits": amounts}
        assert container["image"] == work.image
        assert container["command"] == COMMAND
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        environment = {item["name"]: item for item in container["env"]}
        assert environment["NCCL_DEBUG"]["value"] == "INFO"
        secret = {"name": "s3", "key": "secret-key", "optional": True}
        assert environment["KEY"]["valueFrom"] == {"secretKeyRef": secret}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/cache", "/dev/shm"}
        assert {"medium": "Memory", "sizeLimit": "1536Mi"} in [volume.get("emptyDir") for volume in spec["volumes"]]
        assert spec["nodeSelector"] == {"pool": "gpu"}
        assert spec["tolerations"][1] == {
            "key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": 60,
        }  # fmt: skip
        assert spec["serviceAccountName"] == "trainer"
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["restartPolicy"] == "Never"
        assert spec["automountServiceAccountToken"] is False
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert (labels["team"], annotations["cost"]) == ("vision", "42")
        assert labels["sidecar.istio.io/inject"] == annotations["sidecar.istio.io/inject"] == "false"
    names = [f"{pod['spec']['hostname']}.{pod['spec']['subdomain']}" for pod in pods]
    assert sorted(names) == sorted(JOBS[kind].form.host_names("train-1", work))
    assert [JOBS[kind].form.host(pod) for pod in pods] == [0, 1, 2, 3]


@pytest.mark.parametrize("form", [trainjob, mpijob])
def test_the_least_is_valid_too(server: FakeKubernetes, form: object) -> None:
    kind = "trainjob" if form is trainjob else "mpijob"
    work = ClusterWork(kind=kind, namespace=NAMESPACE, image="millrace/train:1")
    assert len(pods_of(server, work)) == 1


def test_the_runtime_may_belong_to_the_whole_cluster(server: FakeKubernetes, every_setting: ClusterWork) -> None:
    apply_runtime(server, "", kind="ClusterTrainingRuntime")
    work = every_setting.model_copy(update={"settings": {"runtime_kind": "ClusterTrainingRuntime"}})
    assert len(pods_of(server, work)) == 4


def test_a_field_that_the_schema_lacks_is_found(contracts: Path, every_setting: ClusterWork) -> None:
    for form, kind in ((trainjob, "TrainJob"), (mpijob, "MPIJob")):
        schema = load_schema(contracts, kind)
        assert schema is not None
        body = form.manifest("train-1", every_setting, COMMAND, TASK)
        assert findings(schema, body) == []
        body["spec"]["more"] = 1
        assert [(found.path, found.unknown) for found in findings(schema, body)] == [("spec.more", True)]


@pytest.mark.parametrize("task", ["train", "Train_the-Model 2 " * 9, "7th", "ünïcode", "---"])
def test_names_are_labels_with_room_for_pods(task: str) -> None:
    name = job_name(task, "6A5C0B2E-0000-4000-8000-000000000001", "content")
    assert len(name) <= 40
    assert name.isascii()
    assert name[0].isalpha()
    assert name == name.lower()
    assert name.replace("-", "").isalnum()
    assert name != job_name(task, "6A5C0B2E-0000-4000-8000-000000000001", "other content")
    assert (
        max(map(len, trainjob.host_names(name, ClusterWork(kind="trainjob", namespace="n", image="i", hosts=9999))))
        < 253
    )
