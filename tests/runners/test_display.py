"""What a run says in a terminal or a log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.display import Display
from millrace.runners.kubeflow import display as kubeflow_display
from millrace.runners.kubeflow import record as kubeflow
from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState
from millrace.runners.sagemaker import display as sagemaker_display
from millrace.runners.sagemaker import record as sagemaker
from millrace.runtime.task import MadeArtifact
from tests.toys import Play, play


def test_what_keeps_running_is_named_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = MadeArtifact(path="words", digest="", bytes=0, metadata={"url": "http://127.0.0.1:9", "running": True})
    task = TaskRun(
        name="write",
        component="write",
        component_version="1",
        state=TaskState.SUCCEEDED,
        directory=tmp_path,
        outputs={"words": made},
    )
    spec = play.compose(Play())
    run = PipelineRun(
        id="1", pipeline=spec, state=RunState.SUCCEEDED, started=datetime.now(UTC), millrace="1", tasks={"write": task}
    )
    Display(spec).close(run)
    told = f"write keeps running: http://127.0.0.1:9; how to stop it: {tmp_path / 'log.txt'}"
    assert told in capsys.readouterr().out


def sagemaker_rehearsal() -> tuple[sagemaker_display.Display, sagemaker.Rehearsal]:
    now = datetime.now(UTC)
    step = sagemaker.StepRecord(name="lasts", type="Training", state=TaskState.RUNNING, started=now)
    record = sagemaker.Rehearsal(
        id="1", pipeline="p", execution="e", started=now, millrace="1", document=Path("d"), steps={"lasts": step}
    )
    return sagemaker_display.Display(), record


def kubeflow_rehearsal() -> tuple[kubeflow_display.Display, kubeflow.Rehearsal]:
    now = datetime.now(UTC)
    task = kubeflow.TaskRecord(name="lasts", state=TaskState.RUNNING, started=now)
    record = kubeflow.Rehearsal(
        id="1", pipeline="p", started=now, millrace="1", document=Path("d"), tasks={"lasts": task}
    )
    return kubeflow_display.Display(), record


def test_warnings_of_tasks_that_ran_are_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"2026-11-21 22:35:28,86{n} WARNING column 'c{n}' is left out [{n}]" for n in range(7)]
    (tmp_path / "log.txt").write_text("\n".join(["2026-11-21 22:35:28,859 INFO not this", *lines, "WARNING: nor this"]))
    spec = play.compose(Play())
    shares = [ShareRun(directory=tmp_path)]
    task = TaskRun(name="write", component="write", component_version="1", state=TaskState.SUCCEEDED, shares=shares)
    run = PipelineRun(
        id="1", pipeline=spec, state=RunState.SUCCEEDED, started=datetime.now(UTC), millrace="1", tasks={"write": task}
    )
    Display(spec).close(run)
    found = capsys.readouterr().out
    assert [line for line in found.splitlines() if " warns: " in line] == [
        f"write warns: column 'c{n}' is left out [{n}]" for n in range(5)
    ]
    assert f"write: 2 more warnings: {tmp_path / 'log.txt'}" in found
    assert "this" not in found
    task.state = TaskState.CACHED
    Display(spec).close(run)
    assert "warn" not in capsys.readouterr().out


@pytest.mark.parametrize("rehearsal", [sagemaker_rehearsal, kubeflow_rehearsal])
def test_times_of_a_rehearsal_go_on_while_nothing_happens(
    rehearsal: Callable[[], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    display, record = rehearsal()
    with display:
        display.update(record)
        time.sleep(1.2)
    seconds = {float(found) for found in re.findall(r"(\d+\.\d) s", capsys.readouterr().out)}
    assert len(seconds) >= 3
    assert max(seconds) >= 1
