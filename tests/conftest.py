"""Fixtures for all tests: a real S3 server and a real browser on this machine."""

from __future__ import annotations

import builtins
import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
from moto.server import ThreadedMotoServer
from selenium import webdriver
from xdist.scheduler import LoadFileScheduling

from millrace import __version__
from millrace.services.images import IMAGES

SECRET_KEY = "test-secret-that-nobody-should-see"
_bucket_numbers = itertools.count()
_BROWSER_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket on the server."""

    name: str
    endpoint: str
    client: Any
    """A boto3 client."""

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)
        return self.uri(key)

    def upload(self, folder: Path, prefix: str) -> str:
        """Put the files of a folder below a prefix, and give the prefix's URI."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return self.uri(prefix)


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist is untyped
    """Each file is one worker's; files are one's together when they start containers, or share what is dear to make."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        text = Path(self.config.rootpath, file).read_text()
        return next((word for word in ("docker", "two_ranks") if word in text), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """Of several workers (`--numprocesses`)."""
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of moto's S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket, and the environment with which this process and its children reach it."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    client = boto3.client("s3")
    name = f"bucket{next(_bucket_numbers)}"
    client.create_bucket(Bucket=name)
    return Bucket(name, s3_server, client)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Headless Chromium, one for each module; where there is none the test is skipped, but not in CI."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        needed("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*_BROWSER_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        yield opened


def needed(reason: str) -> NoReturn:
    """Skip the test for want of something on this machine; in CI, where everything is installed, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_engine() -> Any:
    """A client of the Docker engine; where there is none the test is skipped, but not in CI."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        needed(f"needs a Docker engine: {error}")
    return client


@pytest.fixture(scope="session")
def images(docker_engine: Any) -> dict[str, str]:
    """References of the images data, train and serve by name, built from this checkout."""
    project = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "millrace", "build"], cwd=project, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"millrace build: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return {name: f"millrace/{name}:{__version__}" for name in IMAGES}


@pytest.fixture(scope="session")
def contracts() -> Path:
    """The folder with public schemas of the systems that documents are written for."""
    default = Path(__file__).parents[2] / "shared" / "contracts"
    folder = Path(os.environ.get("MILLRACE_CONTRACTS", default))
    if not folder.is_dir():
        pytest.skip("needs the public schemas: name their folder in MILLRACE_CONTRACTS")
    return folder


@pytest.fixture
def after_kfp_local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """kfp's local runner changes `print` and the root logger; threads of its loops leave them changed."""
    monkeypatch.setattr(builtins, "print", builtins.print)  # so that it is put back
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
