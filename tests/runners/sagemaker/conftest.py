"""A place for jobs, with an engine and a store of its own, that must leave nothing behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.engine import connect
from millrace.runners.sagemaker.place import Place, open_place
from millrace.runners.sagemaker.record import Rehearsal
from millrace.runners.store import Store, open_store
from tests.runners.rehearsals import left_behind
from tests.runners.sagemaker.jobs import IMAGE
from tests.runners.sagemaker.rehearsed import Rehearsed, run_rehearsal


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
        with open_place(engine, job_store, tmp_path, region="us-east-1", grace=4) as opened:
            yield opened
        if not engine.stopped:  # else what ends the containers may still be at it
            assert left_behind(docker_engine, identity) == []
        assert [path for path in tmp_path.iterdir() if path.name != "jobs"] == []
    finally:
        engine.close()
    assert left_behind(docker_engine, identity) == []


@pytest.fixture(scope="session")
def stand_in(docker_engine: Any) -> str:
    """The image that answers `train` and `serve`."""
    from tests.runners.sagemaker.definitions import STAND_IN, image_context

    if not docker_engine.images.list(IMAGE):
        docker_engine.images.pull(IMAGE)
    docker_engine.images.build(fileobj=image_context(), custom_context=True, tag=STAND_IN, rm=True, forcerm=True)
    return STAND_IN


@pytest.fixture
def rehearsed(docker_engine: Any, stand_in: str, tmp_path: Path) -> Rehearsed:
    """Rehearses a definition: `rehearsed(text, parameter=value, settings={...})`; nothing may be left behind."""

    def run(
        text: str,
        settings: dict[str, Any] | None = None,
        watch: Callable[[Rehearsal], None] = lambda record: None,
        **parameters: Any,
    ) -> Rehearsal:
        record = run_rehearsal(tmp_path / "rehearsals", text, parameters, watch, **(settings or {}))
        assert left_behind(docker_engine, record.id) == []
        return record

    return run
