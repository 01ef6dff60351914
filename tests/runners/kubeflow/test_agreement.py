"""Where kfp's own local runner can run a document, a rehearsal gives the same."""

from __future__ import annotations

import io
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.kubeflow.record import MadeArtifact
from tests.runners.kubeflow.conftest import Rehearsed

documents = pytest.importorskip("tests.runners.kubeflow.documents", reason="needs kfp")
pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("after_kfp_local")]


def run_locally(path: Path, root: Path, **parameters: Any) -> Any:
    """Run a document with kfp's DockerRunner; the task that kfp makes of it.

    The runner asks for the logs of a container that removes itself: one that ends before is gone, and it runs again.
    """
    from docker.errors import APIError
    from kfp import components, local

    local.init(runner=local.DockerRunner(network_mode="host"), pipeline_root=str(root), raise_on_error=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        component = components.load_component_from_file(str(path))
        for _ in range(5):
            try:
                return component(**parameters)
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
        raise AssertionError("five times a container ended before its logs were read")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("chain", {"rows": 5}),
        ("types", {"flag": False, "real": 2.5}),
        ("loop", {}),
        ("nested", {"a": 3}),
        ("branches", {"which": "b"}),
        ("branches", {"which": "c"}),
        ("optional", {}),
        ("fan_in", {}),
        ("dynamic", {}),
    ],
)
def test_outputs_agree(rehearsed: Rehearsed, tmp_path: Path, name: str, parameters: dict[str, Any]) -> None:
    pipeline = getattr(documents, name)
    outputs = rehearsed(pipeline, **parameters).outputs
    assert outputs
    assert outputs == run_locally(documents.compiled(pipeline, tmp_path), tmp_path / "local", **parameters).outputs


def test_a_failing_body_agrees(rehearsed: Rehearsed, tmp_path: Path) -> None:
    record = rehearsed(documents.exit_handler)
    run_locally(documents.compiled(documents.exit_handler, tmp_path), tmp_path / "local")
    ran = {path.parent.name for path in (tmp_path / "local").rglob("out")}
    assert {"say", "say-2"} <= ran
    assert [record.tasks[name].state for name in ("say", "exit-handler-1/say-2")] == ["succeeded"] * 2


def test_components_that_are_python_functions_agree(rehearsed: Rehearsed, docker_engine: Any, tmp_path: Path) -> None:
    if not docker_engine.images.list(documents.PYTHON):
        recipe = f"FROM {documents.IMAGE}\nRUN pip install --no-cache-dir --quiet kfp==2.17.0\n"
        docker_engine.images.build(
            fileobj=io.BytesIO(recipe.encode()), tag=documents.PYTHON, network_mode="host", rm=True
        )
    record = rehearsed(documents.python)
    task = run_locally(documents.compiled(documents.python, tmp_path), tmp_path / "local")
    assert record.outputs == task.outputs == {"Output": "2.25 4 (2; no note)"}
    made: dict[str, list[MadeArtifact]] = record.tasks["store"].artifacts
    assert made["metrics"][0].metadata == {"total": 6.25}
    page = next((tmp_path / "local").rglob("page"))
    assert made["page"][0].path is not None
    assert made["page"][0].path.read_text() == page.read_text()
