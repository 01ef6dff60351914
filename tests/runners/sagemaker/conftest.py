"""A place for jobs, with an engine and a store of its own, that must leave nothing behind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.engine import LABEL, connect
from millrace.runners.sagemaker.place import Place, open_place
from millrace.runners.store import Store, open_store
from tests.runners.sagemaker.jobs import IMAGE


@pytest.fixture(scope="module")
def job_store() -> Iterator[Store]:
    with open_store(None) as store:
        yield store


@pytest.fixture
def place(docker_engine: Any, job_store: Store, tmp_path: Path) -> Iterator[Place]:
    if not docker_engine.images.list(IMAGE):
        docker_engine.images.pull(IMAGE)
    identity = f"test-{uuid.uuid4().hex[:8]}"
    engine = connect(identity)
    try:
        with open_place(engine, job_store, tmp_path, region="us-east-1", grace=10) as opened:
            yield opened
        assert left_behind(docker_engine, identity) == []
        assert [path for path in tmp_path.iterdir() if path.name != "jobs"] == []
    finally:
        engine.close()


def left_behind(docker_engine: Any, identity: str) -> list[str]:
    """Names of containers, networks and volumes of a rehearsal."""
    mine = {"label": f"{LABEL}={identity}"}
    found = [
        *docker_engine.containers.list(all=True, filters=mine),
        *docker_engine.networks.list(filters=mine),
        *docker_engine.volumes.list(filters=mine),
    ]
    return [item.name for item in found]
