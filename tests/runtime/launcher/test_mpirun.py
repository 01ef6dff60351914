"""Ranks that a real mpirun starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.runtime.task import read_result
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


def test_a_mistake_ends_all(mpirun: str, tmp_path: Path) -> None:
    directory = tmp_path / "task"
    asked(trouble={"rank": 1}).write(directory)
    done = run(mpirun, directory, 2)
    assert done.returncode != 0
    assert "error: there is a hole in the road" in done.stderr
    assert read_result(directory) is None
