"""What a run says in a terminal or a log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.runners.display import Display
from millrace.runners.record import PipelineRun, RunState, TaskRun, TaskState
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
