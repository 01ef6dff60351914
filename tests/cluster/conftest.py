"""Fixtures of cluster work: the stand-in API server, and the step of a pipeline that hands its task over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from millrace.specs import Resources
from millrace.targets.kubeflow import ClusterWork, PodSettings, SecretVariable, Toleration, VolumeClaim
from tests.cluster.fake_kubernetes import FakeKubernetes
from tests.cluster.operators import PROJECT, Operator, apply_runtime, mpi_operator, trainer
from tests.conftest import SECRET_KEY, Bucket

__all__ = ["Step"]

NAMESPACE = "team"


@dataclass(frozen=True)
class Step:
    """The small pod of a step whose task several hosts shall do."""

    folder: Path
    bucket: Bucket
    work: ClusterWork
    parameters: dict[str, Any]
    task: str = "train"
    inputs: dict[str, list[str]] = field(default_factory=dict)
    """URIs by the document's names of inputs."""
    parts: tuple[str, ...] = ()
    """Those that belong to the port `more`."""
    environment: dict[str, str] = field(default_factory=dict)

    def executor_input(self) -> dict[str, Any]:
        outputs = ("sums", "metrics", "summary")
        uri = self.bucket.uri(f"root/{self.task}")
        return {
            "inputs": {
                "parameterValues": {"parameters": json.dumps(self.parameters)},
                "artifacts": {
                    port: {"artifacts": [{"name": "1", "uri": uri, "metadata": {}} for uri in uris]}
                    for port, uris in self.inputs.items()
                },
            },
            "outputs": {
                "parameters": {"total": {"outputFile": str(self.folder / "total")}},
                "artifacts": {
                    name: {"artifacts": [{"name": name, "uri": f"{uri}/{name}", "metadata": {}}]} for name in outputs
                },
                "outputFile": str(self.answer_file),
            },
        }

    @property
    def answer_file(self) -> Path:
        return self.folder / "output_metadata.json"

    def answer(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.answer_file.read_text())
        return read

    def start(self) -> subprocess.Popen[str]:
        given = self.folder / "given"
        given.mkdir(parents=True, exist_ok=True)
        words = ["--executor-input", json.dumps(self.executor_input()), "--run", "6a5c0b2e-0000", "--task", self.task]
        words += [word for name in self.inputs for word in ("--input", f"{name}={given}")]
        words += [word for name in self.parts for word in ("--part", f"more={name}")]
        words += [
            word for name in ("sums", "metrics", "summary") for word in ("--output", f"{name}={self.folder / name}")
        ]
        words += ["--cluster", self.work.model_dump_json()]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "millrace", "exec", "tests.cluster.ranks:ranks", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=PROJECT,
            env={**os.environ, **self.environment},
        )

    def run(self) -> tuple[int, str]:
        """The exit code and the output."""
        process = self.start()
        out, _ = process.communicate(timeout=90)
        return process.returncode, out

    def with_work(self, **changes: Any) -> Step:
        return replace(self, work=self.work.model_copy(update=changes))


@pytest.fixture
def server(contracts: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(contracts) as running:
        apply_runtime(running, NAMESPACE)
        secret = {"name": "s3", "namespace": NAMESPACE}
        running.put("secrets", {"kind": "Secret", "metadata": secret, "stringData": {"secret-key": SECRET_KEY}})
        yield running


@pytest.fixture
def operator(server: FakeKubernetes, tmp_path: Path) -> Iterator[Operator]:
    with trainer(server, tmp_path) as running:
        yield running


@pytest.fixture
def mpi(server: FakeKubernetes, tmp_path: Path) -> Iterator[Operator]:
    with mpi_operator(server, tmp_path) as running:
        yield running


@pytest.fixture
def step(server: FakeKubernetes, s3: Bucket, tmp_path: Path) -> Step:
    """A step for two hosts, whose names lead to this machine."""
    for index, word in enumerate(("to", "be", "or", "not")):
        s3.put(f"words/deep/{index}.txt" if index == 9 else f"words/{index}.txt", word.encode())
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    pod = PodSettings(
        environment={
            "AWS_ACCESS_KEY_ID": "test-access-key",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": s3.endpoint,
            "MILLRACE_HOSTS": "127.0.0.1,127.0.0.1",
        },
        secret_variables=(SecretVariable(variable="AWS_SECRET_ACCESS_KEY", secret="s3", key="secret-key"),),
    )
    work = ClusterWork(
        kind="trainjob",
        namespace=NAMESPACE,
        image="registry.example.org/millrace/train@sha256:0",
        hosts=2,
        resources=Resources(cpus=0.5, memory_gib=1, timeout_minutes=5),
        pod=pod,
        settings={"poll_seconds": 0.2},
    )
    config = server.kubeconfig(tmp_path / "kubeconfig", namespace=NAMESPACE)
    inputs = {"words": [s3.uri("words")]}
    return Step(tmp_path / "step", s3, work, {"port": port}, inputs=inputs, environment={"KUBECONFIG": str(config)})


@pytest.fixture
def every_setting() -> ClusterWork:
    """Cluster work that uses everything a target can set for a pod."""
    pod = PodSettings(
        node_selector={"pool": "gpu"},
        tolerations=(
            Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),
            Toleration(key="spot", value="true", effect="NoExecute", toleration_seconds=60),
        ),
        environment={"NCCL_DEBUG": "INFO"},
        secret_variables=(SecretVariable(variable="KEY", secret="s3", key="secret-key", optional=True),),
        volume_claims=(VolumeClaim(claim="cache", path="/cache"),),
        shared_memory_gib=1.5,
        accelerator="amd.com/gpu",
        image_pull_secrets=("registry",),
        labels={"team": "vision"},
        annotations={"cost": "42"},
    )
    return ClusterWork(
        kind="trainjob",
        namespace=NAMESPACE,
        image="registry.example.org/millrace/train@sha256:0",
        service_account="trainer",
        hosts=4,
        processes=2,
        resources=Resources(cpus=3.5, memory_gib=10, gpus=2, timeout_minutes=90),
        pod=pod,
    )
