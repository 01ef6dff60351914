"""The command is stopped in every way; the same command goes on from there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from millrace.runners.record import PipelineRun
from tests import toys


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my_config" / "pipeline"
    folder.mkdir(parents=True)
    journal = tmp_path / "journal"
    journal.touch()
    (folder / "play.yaml").write_text(
        "# @package _global_\n"
        "pipeline: {name: play, function: 'tests.toys:play'}\n"
        f"runner: {{root: {tmp_path / 'root'}, cores: 2}}\n"
        f"write: {{journal: {journal}}}\n"
        f"work: {{journal: {journal}, seconds: 2}}\n"
        f"again: {{seconds: 2}}\n"
        f"split: {{journal: {journal}}}\n"
    )
    return tmp_path


def heed_signals() -> None:
    """What started the tests may ignore some, in the background or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(project: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "millrace", "run", "--config-dir", "my_config", "pipeline=play", *overrides],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(Path(toys.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_signals,
    )


def wait_for(project: Path, line: str) -> None:
    deadline = time.monotonic() + 60
    while line not in (project / "journal").read_text().splitlines():
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.05)


def workers(project: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        if any(str(project) in word for word in process.info["cmdline"] or []):
            yield process


def assert_no_worker_is_left(project: Path) -> None:
    deadline = time.monotonic() + 30
    while left := list(workers(project)):
        assert time.monotonic() < deadline, f"workers are left: {left}"
        time.sleep(0.1)


def only_run(project: Path) -> PipelineRun:
    (folder,) = (project / "root" / "runs").iterdir()
    return PipelineRun.read(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_in_order(project: Path, number: signal.Signals) -> None:
    process = start(project)
    wait_for(project, "work")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command again to go on from here" in output
    record = only_run(project)
    assert (record.state, record.tasks["work"].state) == ("cancelled", "cancelled")
    assert_no_worker_is_left(project)


def test_a_second_signal_does_not_wait_for_workers(project: Path) -> None:
    process = start(project, "work.behaviour=stubborn", "work.seconds=0")
    wait_for(project, "stubborn")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=8)
    assert process.returncode == 130, output
    record = only_run(project)
    assert record.state == "cancelled"
    assert all(task.state.final for task in record.tasks.values())
    assert_no_worker_is_left(project)


def test_kill_9_leaves_no_worker_and_the_same_command_goes_on(project: Path) -> None:
    process = start(project)
    wait_for(project, "work")
    assert only_run(project).state == "running"
    process.kill()
    process.communicate()
    record = only_run(project)
    assert (record.state, record.tasks["write"].state) == ("interrupted", "succeeded")
    assert all(task.state.final for task in record.tasks.values())
    assert_no_worker_is_left(project)
    process = start(project)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    counted = Counter((project / "journal").read_text().splitlines())
    assert (counted["write"], counted["work"]) == (1, 2)


def test_random_kills_end_in_the_same_outputs(project: Path) -> None:
    generator = random.Random(7)
    for _ in range(4):
        process = start(project)
        time.sleep(generator.uniform(0.2, 4))
        victims = [process.pid, *(worker.pid for worker in workers(project))]
        os.kill(generator.choice(victims), signal.SIGKILL)
        process.communicate(timeout=120)
    process = start(project)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    last = max((project / "root" / "runs").iterdir(), key=lambda folder: folder.name)
    parts = PipelineRun.read(last).tasks["split"].output_path("parts")
    words = [file.read_text() for file in sorted(parts.glob("*.txt"))]
    assert words == ["TO", "BE", "OR", "NOT", "TO", "BE"]
    assert not list((project / "root").rglob("*.partial"))
