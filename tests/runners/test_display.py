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
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState
from millrace.runners.sagemaker import display as sagemaker_display
from millrace.runners.sagemaker import record as sagemaker
from millrace.runtime.task import MadeArtifact
from tests import toys
from tests.toys import Play, SplitParameters, WorkParameters, play


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
    Display().close(run)
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
    Display().close(run)
    found = capsys.readouterr().out
    assert [line for line in found.splitlines() if " warns: " in line] == [
        f"write warns: column 'c{n}' is left out [{n}]" for n in range(5)
    ]
    assert f"write: 2 more warnings: {tmp_path / 'log.txt'}" in found
    assert "this" not in found
    task.state = TaskState.CACHED
    Display().close(run)
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


@pytest.mark.parametrize("rehearsal", [sagemaker_rehearsal, kubeflow_rehearsal])
def test_a_failure_in_a_rehearsal_is_told_once(
    rehearsal: Callable[[], tuple[Any, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    display, record = rehearsal()
    with display:
        display.update(record)
        entry = (record.steps if isinstance(record, sagemaker.Rehearsal) else record.tasks)["lasts"]
        entry.state, entry.reason = TaskState.FAILED, "the disk is full"
        record.state, record.reason = RunState.FAILED, "lasts: the disk is full"
        display.update(record)
    display.close(record)
    found = capsys.readouterr().out
    assert found.count("the disk is full") == 1
    assert "lasts failed: the disk is full\n" in found
    assert "p: failed in" in found


def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], **given: Any) -> str:
    """What is seen of a run with real workers."""
    with Display("millrace run pipeline=play") as display:
        runner = LocalRunner(root=tmp_path, cores=2, memory_gib=4)
        run, _ = run_pipeline(play.compose(Play(**given)), runner, watch=display.update)
    display.close(run)
    return capsys.readouterr().out


class TestAFailure:
    @pytest.fixture(autouse=True)
    def importable_by_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(toys.__file__).parents[1]))

    @pytest.mark.parametrize(
        ("behaviour", "message", "mend"),
        [
            ("user", "the words are spelt wrongly: 'tobe'; allowed: real words", "mend that, then "),
            ("crash", "RuntimeError: boom", ""),
        ],
    )
    def test_is_told_once(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: Any, message: str, mend: str
    ) -> None:
        found = shown(tmp_path, capsys, work=WorkParameters(behaviour=behaviour))
        assert found.count(message) == 1, found
        assert f"work failed: {message}\n" in found
        assert re.search(rf"^log: {tmp_path}/tasks/work/\w+/log.txt$", found, re.MULTILINE)
        again = f"next: {mend}run the same command again to go on from here: millrace run pipeline=play\n"
        assert found.endswith(again)
        assert "\nnot started: split, judge, last\n" in found
        assert re.search(r"^play: failed in [\d.]+ s$", found, re.MULTILINE)
        assert ("raise RuntimeError" in found) == (behaviour == "crash")  # what did not say why by itself

    def test_is_told_once_beside_a_live_table(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "400")):
            monkeypatch.setenv(name, value)
        found = shown(tmp_path, capsys, work=WorkParameters(behaviour="user"))
        assert found.count("the words are spelt wrongly") == 1
        assert f"log: {tmp_path}/tasks/work/" in found

    def test_of_putting_shares_together_is_told_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = shown(tmp_path, capsys, split=SplitParameters(clash=True))
        assert found.count("two shares wrote different files called 'schema'") == 1

    def test_for_want_of_a_folder_is_told_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "work").touch()
        found = shown(tmp_path, capsys)
        assert found.count(f"{tmp_path}/tasks/work") == 1, found
        assert "work failed: " in found
