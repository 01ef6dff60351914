"""Hosts in containers of their own, which know each other by the names that a JobSet gives them."""

from __future__ import annotations

import functools
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tests.cluster.conftest import Step
from tests.cluster.fake_kubernetes import FakeKubernetes, Object
from tests.cluster.operators import PROJECT, trainer


@pytest.fixture
def network(docker_engine: Any) -> Iterator[Any]:
    """A network of its own, which has a name service."""
    made = docker_engine.networks.create(f"millrace-test-{uuid.uuid4().hex[:8]}")
    made.reload()
    yield made
    made.remove()


def in_container(
    network: str, image: str, pod: Object, environment: Mapping[str, str], message: Path
) -> subprocess.Popen[str]:
    """Run a pod as a container, known by its host name below its job's name, as in a cluster."""
    [container] = pod["spec"]["containers"]
    spec = pod["spec"]
    cpus, memory = container["resources"]["limits"]["cpu"], container["resources"]["limits"]["memory"]
    words = ["docker", "run", "--rm", "--network", network, "--hostname", spec["hostname"]]
    words += ["--network-alias", f"{spec['hostname']}.{spec['subdomain']}", "--name", pod["metadata"]["name"]]
    words += ["--cpus", str(int(cpus.removesuffix("m")) / 1000), "--memory", memory.removesuffix("i").lower()]
    words += ["--user", "4711:0", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]
    words += ["--volume", f"{PROJECT / 'tests'}:/project/tests:ro", "--volume", f"{message}:/dev/termination-log"]
    for name, value in {**environment, "MILLRACE_IMPORT_PATH": "/project"}.items():
        if name != "HOSTNAME":
            words += ["--env", f"{name}={value}"]
    entry, *command = container["command"]
    words += ["--entrypoint", entry, image, *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


@pytest.mark.docker
def test_three_hosts_in_containers_find_each_other_by_name(
    server: FakeKubernetes, step: Step, network: Any, images: dict[str, str], tmp_path: Path
) -> None:
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    store = ThreadedMotoServer(ip_address=gateway, port=0, verbose=False)
    store.start()
    try:
        variables = {
            **step.work.pod.environment,
            "AWS_ENDPOINT_URL": f"http://{gateway}:{store.get_host_and_port()[1]}",
        }
        del variables["MILLRACE_HOSTS"]
        pod = step.work.pod.model_copy(update={"environment": variables})
        ours = replace(step.with_work(pod=pod, hosts=3), parameters={"port": 29600})
        with trainer(server, tmp_path, functools.partial(in_container, network.name, images["data"])):
            code, out = ours.run()
    finally:
        store.stop()
    assert code == 0, out
    assert ours.answer()["parameterValues"] == {"total": 9.0}
    assert [f"[host {index}] my part is" in out for index in range(3)] == [True] * 3
    sums = step.bucket.client.get_object(Bucket=step.bucket.name, Key="root/train/sums/total.txt")
    assert sums["Body"].read() == b"9 on 3 hosts"
