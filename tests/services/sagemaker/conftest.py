"""AWS on this machine, one server for all tests of a session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
import pytest

from millrace.services.sagemaker import Document, read_document
from millrace.services.sagemaker import Session as Opened
from millrace.services.sagemaker import session as open_session
from millrace.targets.sagemaker import SageMaker, Session
from tests.services.sagemaker.fake import ACCOUNT, SECRET, FakeAws, serving

ROLE = f"arn:aws:iam::{ACCOUNT}:role/jobs"
BUCKET = "millrace-tests"
SMALL = Path(__file__).with_name("small.json")
WORDS = ["target=sagemaker", f"target.role={ROLE}", f"target.bucket={BUCKET}"]


class Run:
    """`millrace COMMAND WORDS` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, command: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "millrace", command, *WORDS, "target.session.poll_seconds=0.05", *words]

    def __call__(self, command: str, *words: str, code: int = 0) -> str:
        answer = subprocess.run(
            self.command(command, *words),
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        shown = answer.stdout + answer.stderr
        assert answer.returncode == code, shown
        assert SECRET not in shown
        assert "Traceback" not in shown
        return shown


@pytest.fixture(autouse=True, scope="session")
def models_read_once() -> Iterator[None]:
    """botocore reads a service's model anew for each session: here all sessions have one loader."""
    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda path=None: loader)
        yield


@pytest.fixture(scope="session")
def aws_server() -> Iterator[FakeAws]:
    """The stand-in, one for all tests."""
    with serving(FakeAws()) as fake:
        yield fake


@pytest.fixture
def aws(aws_server: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAws:
    """The stand-in, empty but for a bucket, and the environment with which this process and its children reach it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    aws_server.reset()
    aws_server.empty_bucket(BUCKET)
    return aws_server


@pytest.fixture
def target(aws: FakeAws) -> SageMaker:
    """A target whose account is the stand-in."""
    return SageMaker(role=ROLE, bucket=BUCKET, session=Session(poll_seconds=0.01))


@pytest.fixture
def session(target: SageMaker) -> Opened:
    return open_session(target)


@pytest.fixture
def document() -> Document:
    """A small compiled pipeline: prepare, tune, train, and quantize when a condition holds; four fields are open."""
    return read_document(SMALL.read_text(), "small")
