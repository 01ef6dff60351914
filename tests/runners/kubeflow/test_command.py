"""`millrace rehearse`, from the command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.compilers.kubeflow import compile_pipeline
from millrace.components.digits.spec import DigitsParameters, digits
from millrace.pipelines.digits import Digits
from millrace.pipelines.digits import digits as pictures
from millrace.targets.kubeflow import Kubeflow
from millrace.testing import run_component
from tests.runners.rehearsals import SECONDS, Started, left, starting, wait_until_gone, wait_until_running

documents = pytest.importorskip("tests.runners.kubeflow.documents", reason="needs kfp")
pytestmark = pytest.mark.docker


@pytest.fixture
def started(docker_engine: Any, tmp_path: Path) -> Iterator[Started]:
    """Starts `millrace rehearse` in the test's folder."""
    with starting(tmp_path) as start:
        yield start


def test_a_document_of_anybody_is_rehearsed(started: Started, tmp_path: Path) -> None:
    path = documents.compiled(documents.chain, tmp_path)
    process = started(f"document={path.name}", "parameters.rows=6")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    assert "output lines = 6" in out
    assert "make-dataset.accuracy" in out
    (record,) = (tmp_path / "build" / "rehearsals").glob("*/rehearsal.json")
    assert json.loads(record.read_text())["parameters"] == {"rows": 6}
    assert f"record, logs and outputs: build/rehearsals/{record.parent.name}" in out


def test_a_failed_rehearsal_says_what_failed(started: Started, tmp_path: Path) -> None:
    process = started(f"document={documents.compiled(documents.exit_handler, tmp_path)}")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, out + err
    assert "  | about to fail: on purpose" in out
    assert "exit: failed in" in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is no YAML"),
        ("pipelineInfo: {name: x}\nschemaVersion: 2.1.0\nroot: {dag: {taskz: {}}}\n", "root.dag.taskz"),
        (None, "No such file"),
    ],
)
def test_what_is_no_document_is_refused(started: Started, tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "wrong.yaml").write_text(text)
    process = started("document=wrong.yaml")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert told in err
    assert "Traceback" not in err


def test_a_document_whose_steps_need_a_cluster_is_refused(started: Started, tmp_path: Path) -> None:
    text = compile_pipeline(pictures.compose(Digits()), Kubeflow())
    (tmp_path / "document.yaml").write_text(text)
    process = started("document=document.yaml")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "deploymentSpec.executors.exec-deploy.container.args: this step hands its work to a service" in err


def test_a_signal_ends_a_rehearsal_in_order(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    process = started(f"document={documents.compiled(documents.lasting, tmp_path)}")
    wait_until_running(docker_engine, tmp_path, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, out + err
    assert "lasting: cancelled" in out
    assert left(docker_engine, tmp_path) == []
    (record,) = (tmp_path / "build" / "rehearsals").glob("*/rehearsal.json")
    assert json.loads(record.read_text())["state"] == "cancelled"


def test_leftovers_of_a_killed_rehearsal_are_removed_by_the_next(
    started: Started, tmp_path: Path, docker_engine: Any
) -> None:
    path = documents.compiled(documents.lasting, tmp_path)
    process = started(f"document={path}")
    wait_until_running(docker_engine, tmp_path, process)
    process.kill()
    process.communicate(timeout=SECONDS)
    [killed] = (tmp_path / "build" / "rehearsals").glob("lasting-*")
    process = started(f"document={documents.compiled(documents.optional, tmp_path)}")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    wait_until_gone(docker_engine, killed.name)


@pytest.mark.slow
def test_an_image_classification_from_s3_to_the_gate(
    started: Started, tmp_path: Path, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(images) == ["data", "serve", "train"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    pictures = run_component(digits, DigitsParameters(limit=60), tmp_path / "digits").outputs["dataset"]
    process = started(
        "pipeline=image_classification",
        "target=kubeflow",
        "model=cnn",
        "runtime=[train.epochs]",
        "parameters.train.epochs=6",
        "manifest.source=s3://pictures/digits",
        "manifest.split={train: 0.7, validation: 0.1, test: 0.2}",
        f"rehearse.seed={{pictures/digits: {pictures}}}",
        "shard.shards=2",
        "preprocess.data={height: 8, width: 8, channels: 1, encoding: png}",
        "gate.accuracy=0.5",
    )
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    (file,) = (tmp_path / "build" / "rehearsals").glob("*/rehearsal.json")
    tasks = json.loads(file.read_text())["tasks"]
    assert {name for name in tasks if "/" not in name} >= {"manifest", "shard", "train", "evaluate"}
    assert len([name for name in tasks if name.endswith("/preprocess")]) == 2
    assert {task["state"] for task in tasks.values()} == {"succeeded"}
    assert tasks["manifest"]["parameters"]["objects"] == 600
    assert tasks["train"]["parameters"]["epochs"] == 6
    [report] = tasks["evaluate"]["artifacts"]["report"]
    assert report["type"] == "system.HTML"
    assert "<html" in Path(report["path"]).read_text()
    deployed = [name for name in tasks if name.endswith("/deploy")]
    assert len(deployed) == 1
