"""The way of containers to a store on this machine, and of nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.errors import ConfigError
from millrace.runners.engine import Engine, connect
from millrace.runners.sagemaker.place import Place, open_place
from millrace.runners.sagemaker.relay import for_containers
from millrace.runners.store import Store
from tests.runners.sagemaker.jobs import put

pytestmark = pytest.mark.docker


def test_only_containers_of_the_rehearsal_are_served(place: Place, docker_engine: Any) -> None:
    put(place, "open/x", "data")
    assert httpx.get(f"{place.store.endpoint}/data/open/x").text == "data"
    address = place.environment["AWS_ENDPOINT_URL"]
    assert address != place.store.endpoint
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address}/data/open/x")
    script = f"import urllib.request as u; print(u.urlopen('{address}/data/open/x', timeout=10).read().decode())"
    with pytest.raises(docker_error(), match=r"RemoteDisconnected|reset|refused"):
        docker_engine.containers.run("python:3.11-slim-bookworm", ["python", "-c", script], remove=True)


def docker_error() -> type[Exception]:
    from docker.errors import ContainerError

    error: type[Exception] = ContainerError
    return error


def test_it_ends_with_the_place(docker_engine: Any, job_store: Store, tmp_path: Path) -> None:
    engine = connect("place-ends")
    try:
        with open_place(engine, job_store, tmp_path, region="eu-central-1", account="123456789012") as opened:
            address = opened.environment["AWS_ENDPOINT_URL"]
            assert opened.environment["AWS_REGION"] == "eu-central-1"
            assert opened.arn("model", "m") == "arn:aws:sagemaker:eu-central-1:123456789012:model/m"
            assert replace(opened, region="cn-north-1").arn("model", "m").startswith("arn:aws-cn:")
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)
    finally:
        engine.close()


@pytest.fixture
def engine(docker_engine: Any) -> Engine:
    return connect("addresses")


@pytest.mark.parametrize("address", ["http://store.example:9000", "https://10.1.2.3", "https://s3.example"])
def test_an_address_that_containers_reach_stays(engine: Engine, address: str) -> None:
    with for_containers(address, engine) as found:
        assert found == address


@pytest.mark.parametrize("address", ["https://localhost:9000", "https://127.0.0.1"])
def test_a_certificate_of_the_loopback_is_refused(engine: Engine, address: str) -> None:
    with pytest.raises(ConfigError, match="its certificate would be wrong"), for_containers(address, engine):
        pass
