"""Compiled documents do in containers what the pipelines do here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from millrace.compilers.kubeflow import compile_pipeline
from millrace.runners.kubeflow.rehearsal import rehearse
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.record import RunState
from millrace.runners.settings import Rehearse
from millrace.runtime.execute import digest
from millrace.targets.images import Images
from millrace.targets.kubeflow import Kubeflow
from tests.compilers.kubeflow import flows

pytestmark = pytest.mark.docker
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toys(docker_engine: Any, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Images:
    """An image with the toy components."""
    folder = tmp_path_factory.mktemp("toys")
    shutil.copytree(TESTS, folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "goldens"))
    (folder / "Dockerfile").write_text(f"FROM {images['data']}\nCOPY tests /opt/toys/tests\nENV PYTHONPATH=/opt/toys\n")
    tag = images["data"].replace("/data:", "/toys:")
    docker_engine.images.build(path=str(folder), tag=tag, rm=True)
    return Images(tag=tag.rpartition(":")[2])


@pytest.mark.parametrize("flow", flows.FLOWS, ids=lambda flow: flow.name)
def test_a_rehearsal_makes_what_a_run_makes(flow: flows.Flow, toys: Images, tmp_path: Path) -> None:
    spec = flow.compose(flows.Config())
    here, _ = run_pipeline(spec, LocalRunner(root=tmp_path / "here"))
    text = compile_pipeline(spec, Kubeflow(images=toys))
    there, folder = rehearse(text, Rehearse(root=tmp_path / "there"), {})
    assert there.state is RunState.SUCCEEDED, there.reason
    made = {
        (name.rpartition("/")[2].removeprefix("task-").replace("-", "_"), port): digest(folder / artifact.path)[0]
        for name, task in there.tasks.items()
        if task.kind == "container"
        for port, artifacts in task.artifacts.items()
        for artifact in artifacts
        if artifact.path is not None
    }
    expected = {
        (task.name, port): output.digest
        for task in here.tasks.values()
        if len(task.shares) == 1
        for port, output in task.outputs.items()
    }
    assert expected.items() <= made.items()
    skipped = {task.name for task in here.tasks.values() if not task.shares}
    assert not skipped & {task for task, _ in made}
