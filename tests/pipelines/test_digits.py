"""The main job, end to end, as `make demo` runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from millrace.runners.record import PipelineRun, RunState

pytestmark = pytest.mark.slow


def demo(folder: Path, *overrides: str) -> tuple[subprocess.CompletedProcess[str], PipelineRun]:
    answer = subprocess.run(
        [sys.executable, "-m", "millrace", "run", "pipeline=digits", *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    runs = sorted((folder / ".millrace" / "runs").iterdir(), key=lambda item: (item / "run.json").stat().st_mtime)
    return answer, PipelineRun.read(runs[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(folder: Path) -> tuple[subprocess.CompletedProcess[str], PipelineRun]:
    return demo(folder)


@pytest.fixture
def run(first: tuple[subprocess.CompletedProcess[str], PipelineRun]) -> PipelineRun:
    return first[1]


def states(run: PipelineRun) -> dict[str, str]:
    return {name: task.state.value for name, task in run.tasks.items()}


def test_succeeds_and_says_where_the_report_is(
    first: tuple[subprocess.CompletedProcess[str], PipelineRun],
) -> None:
    answer, run = first
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert run.state is RunState.SUCCEEDED
    assert set(states(run).values()) == {"succeeded"}
    report = re.search(r"^report: (.*)$", answer.stdout, re.MULTILINE)
    assert report is not None
    assert "confusion" in Path(report.group(1)).read_text().lower()


def test_uses_all_1797_pictures(run: PipelineRun) -> None:
    assert run.tasks["manifest"].metrics["objects"] == 1797
    records = run.tasks["preprocess"].output_path("records")
    counted = sum(json.loads(file.read_text())["records"] for file in records.glob("*-of-*.json"))
    assert counted == 1797
    assert len(run.tasks["preprocess"].shares) == 2


def test_reaches_its_accuracy_and_keeps_it_in_int8(run: PipelineRun) -> None:
    accuracy = run.tasks["evaluate"].metrics["accuracy"]
    quantized = run.tasks["quantize"].metrics
    assert accuracy >= 0.97
    assert quantized["float_accuracy"] - quantized["accuracy"] <= 0.01


def test_the_endpoint_answers_like_the_model(run: PipelineRun) -> None:
    assert run.tasks["deploy"].metrics["agreement"] == 1.0


def test_leaves_no_process_running(folder: Path, run: PipelineRun) -> None:
    endpoint = json.loads((run.tasks["deploy"].output_path("endpoint") / "endpoint.json").read_text())
    processes = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert endpoint["running"] is False
    assert [words for words in processes if any(str(folder) in word for word in words)] == []


def test_a_second_run_does_nothing(folder: Path, run: PipelineRun) -> None:
    again = demo(folder)[1]
    assert set(states(again).values()) == {"cached"}
    assert {name: task.metrics for name, task in again.tasks.items()} == {
        name: task.metrics for name, task in run.tasks.items()
    }


def test_a_change_repeats_only_what_depends_on_it(folder: Path, run: PipelineRun) -> None:
    changed = states(demo(folder, "evaluate.top_k=2")[1])
    assert [name for name, state in changed.items() if state != "cached"] == ["evaluate"]


@pytest.fixture
def kept(folder: Path, run: PipelineRun) -> Iterator[str]:
    kept = demo(folder, "deploy.keep=true")[1]
    endpoint = json.loads((kept.tasks["deploy"].output_path("endpoint") / "endpoint.json").read_text())
    yield endpoint["url"]
    server = psutil.Process(endpoint["pid"])
    server.terminate()
    server.wait(timeout=30)


def test_keeps_the_endpoint_when_asked(kept: str, run: PipelineRun) -> None:
    digit = next((run.tasks["pictures"].output_path("dataset") / "7").glob("*.png"))
    answer = httpx.post(
        f"{kept}/invocations", content=digit.read_bytes(), headers={"Content-Type": "image/png"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert "7" in answer.text
