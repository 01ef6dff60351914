"""Rehearsals of documents in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.kubeflow.record import Rehearsal
from millrace.runners.kubeflow.rehearsal import rehearse
from millrace.runners.settings import Rehearse

Rehearsed = Callable[..., Rehearsal]


@pytest.fixture
def rehearsed(docker_engine: Any, tmp_path: Path) -> Rehearsed:
    """Rehearses a pipeline of kfp's DSL: `rehearsed(pipeline, parameter=value)`."""
    from tests.runners.kubeflow.documents import IMAGE, compiled

    if not docker_engine.images.list(IMAGE):
        docker_engine.images.pull(IMAGE)

    def run(pipeline: Any, settings: dict[str, Any] | None = None, **parameters: Any) -> Rehearsal:
        text = compiled(pipeline, tmp_path).read_text()
        record, _ = rehearse(text, Rehearse(root=tmp_path / "rehearsals", **(settings or {})), parameters)
        left = docker_engine.containers.list(all=True, filters={"label": f"millrace.rehearsal={record.id}"})
        assert not left
        return record

    return run
