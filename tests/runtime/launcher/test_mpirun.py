"""Ranks that a real mpirun starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from millrace.components.train.spec import TrainParameters, train
from millrace.runtime.execute import read_request
from millrace.runtime.task import read_result
from millrace.testing import run_component
from millrace.training.options.models import Mlp
from tests.components.train_data import write_picture_records
from tests.conftest import needed
from tests.runtime.launcher.groups import free_port
from tests.runtime.launcher.test_launcher import STEPS, asked


@pytest.fixture
def mpirun() -> str:
    found = shutil.which("mpirun")
    if found is None:
        needed("needs mpirun: apt-get install openmpi-bin")
    return found


def run(mpirun: str, directory: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    words = [mpirun, "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), "-x", "MILLRACE_PORT"]
    return subprocess.run(
        [*words, sys.executable, "-m", "millrace", "exec", "--task", str(directory)],
        env={**os.environ, "MILLRACE_PORT": str(free_port()), "WALK_MARK": str(directory / "mark")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def history(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "checkpoints" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_they_share_a_task_directory(mpirun: str, tmp_path: Path) -> None:
    directory = tmp_path / "task"
    asked().write(directory)
    done = run(mpirun, directory, 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("from step 0 of 3 ranks") == 3
    result = read_result(directory)
    assert result is not None
    assert result.metrics["total"] == sum(range(STEPS))
    assert {item.name for item in directory.iterdir() if item.is_dir()} == {"checkpoints", "outputs"}
    assert not list(directory.glob(".rank-*"))


def test_a_mistake_ends_all(mpirun: str, tmp_path: Path) -> None:
    directory = tmp_path / "task"
    asked(trouble={"rank": 1}).write(directory)
    done = run(mpirun, directory, 2)
    assert done.returncode != 0
    assert "error: there is a hole in the road" in done.stderr
    assert read_result(directory) is None
    assert not list(directory.glob(".rank-1/*"))


@pytest.mark.slow
def test_they_train_one_model(mpirun: str, tmp_path: Path) -> None:
    if find_spec("horovod") is None:
        needed("needs Horovod: make horovod")
    plain = TrainParameters(
        model=Mlp(units=(8,), dropout=0, batch_norm=False), epochs=1, early_stopping=None, batch_size=16
    )
    alone, together = tmp_path / "alone", tmp_path / "together"
    records = write_picture_records(tmp_path / "records")
    run_component(train, plain, alone, cores=2, records=records)
    request = read_request(alone)
    patient = {"parameters": {**request.parameters, "peer_seconds": 60}}
    request.model_copy(update=patient).write(together)
    done = run(mpirun, together, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 1 of 2: all are there" in done.stdout
    (one,), (other,) = history(alone), history(together)
    assert other == pytest.approx(one, abs=2e-5)
    assert [path.parent.parent.name for path in tmp_path.rglob("model/model.keras")].count("outputs") == 2
    assert not list(together.glob(".rank-*"))
