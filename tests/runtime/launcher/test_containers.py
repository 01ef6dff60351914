"""Hosts in containers of their own, on a network of their own, in which they find each other by name."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from millrace.components.train.spec import TrainParameters, train
from millrace.runtime.context import Hosts
from millrace.runtime.task import GivenArtifact, TaskRequest, read_failure
from millrace.testing import run_component
from millrace.training.options.elastic import Elastic
from millrace.training.options.models import Mlp
from tests.components.train_data import write_picture_records

PLAIN = TrainParameters(
    model=Mlp(units=(16,), dropout=0, batch_norm=False),
    epochs=25,
    early_stopping=None,
    batch_size=15,
    checkpoint_steps=2,
    peer_seconds=60,
)

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@dataclass
class Containers:
    """Two hosts."""

    folder: Path
    engine: Any
    network: str
    image: str

    def directory(self, host: int) -> Path:
        return self.folder / f"host-{host}"

    def start(self, host: int, processes: int, elastic: Elastic | None = None) -> subprocess.Popen[bytes]:
        directory = self.directory(host)
        TaskRequest(
            name="train",
            component=train.spec.entry,
            parameters=PLAIN.model_copy(update={"elastic": elastic}).model_dump(mode="json"),
            inputs={"records": (GivenArtifact(path=Path("/records")),)},
            hosts=Hosts(names=("first", "second"), index=host, processes=processes),
            cores=2,
        ).write(directory)
        directory.chmod(0o777)
        name = Hosts(names=("first", "second")).names[host]
        words = ["docker", "run", "--rm", "--network", self.network, "--network-alias", name, "--hostname", name]
        words += ["--user", "4711:0", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]
        words += ["--name", f"{self.network}-{host}", "--volume", f"{directory}:/task"]
        words += ["--volume", f"{self.folder / 'records'}:/records:ro", self.image, "exec", "--task", "/task"]
        with (self.folder / f"log-{host}.txt").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ))

    def log(self, host: int) -> str:
        return (self.folder / f"log-{host}.txt").read_text()

    def wait_for_epoch(self, number: int) -> None:
        deadline = time.monotonic() + 180
        while f"epoch={number} " not in self.log(0):
            assert time.monotonic() < deadline, self.log(0) + self.log(1)
            time.sleep(0.1)

    def kill(self, host: int) -> None:
        with contextlib.suppress(docker.errors.APIError):  # it has ended
            self.engine.containers.get(f"{self.network}-{host}").kill()


@contextlib.contextmanager
def _removed(containers: Containers) -> Iterator[Containers]:
    try:
        yield containers
    finally:
        for host in (0, 1):
            containers.kill(host)


@pytest.fixture
def containers(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> Iterator[Containers]:
    made = docker_engine.networks.create(f"millrace-test-{uuid.uuid4().hex[:8]}")
    write_picture_records(tmp_path / "records")
    with _removed(Containers(tmp_path, docker_engine, made.name, images["train"])) as found:
        yield found
    made.reload()
    made.remove()


def test_when_one_is_killed_the_other_ends_and_says_so(containers: Containers) -> None:
    processes = [containers.start(host, 2) for host in (0, 1)]
    containers.wait_for_epoch(2)
    containers.kill(1)
    assert processes[0].wait(60) == 75, containers.log(0)
    failure = read_failure(containers.directory(0))
    assert failure is not None
    assert (failure.kind, failure.message) == ("transient", "second: ended or can't be reached any more")
    assert "4 ranks on 2 hosts, 2 of them here, by the network card eth0" in containers.log(0)


def history(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "checkpoints" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_elastic_goes_on_without_it_as_if_nothing_had_been(containers: Containers, tmp_path: Path) -> None:
    processes = [containers.start(host, 1, Elastic()) for host in (0, 1)]
    containers.wait_for_epoch(2)
    containers.kill(1)
    run_component(train, PLAIN, tmp_path / "alone", records=tmp_path / "records")
    assert processes[0].wait(180) == 0, containers.log(0)
    assert "1 rank on 1 host (1 missing)" in containers.log(0)
    assert "going on from step" in containers.log(0)
    [alone] = (tmp_path / "alone").rglob("history.jsonl")
    for mine, yours in zip(history(containers.directory(0)), history(alone.parents[1]), strict=True):
        assert mine == pytest.approx(yours, abs=2e-5)
