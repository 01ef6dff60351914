"""AWS on this machine, one server for all tests of a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
import pytest

from millrace.services.sagemaker import Document, read_document
from millrace.services.sagemaker import Session as Opened
from millrace.services.sagemaker import session as open_session
from millrace.targets.sagemaker import SageMaker, Session
from tests.services.sagemaker.fake import ACCOUNT, FakeAws, serving

ROLE = f"arn:aws:iam::{ACCOUNT}:role/jobs"
BUCKET = "millrace-tests"
SMALL = Path(__file__).with_name("small.json")


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
