"""`millrace rehearse` of pipeline definitions, from the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runners.rehearsals import SECONDS, Started, left, starting, wait_until_gone, wait_until_running
from tests.runners.sagemaker import definitions as made
from tests.runners.sagemaker.test_rehearsal import ask

pytestmark = pytest.mark.docker


@pytest.fixture
def started(stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Starts `millrace rehearse` in the test's folder."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with starting(tmp_path) as start:
        yield start


def lasting(folder: Path, name: str) -> None:
    """A definition whose container sleeps."""
    (folder / f"{name}.json").write_text(made.document(made.prepare("sleeps", "import time; time.sleep(300)")))


def test_a_definition_of_anybody_is_rehearsed(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    (tmp_path / "toy.json").write_text(made.document(made.prepare(), made.train(hosts=2)))
    process = started("document=toy.json", "parameters.size=4")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    assert "note: parameter role was not given" in out
    assert re.search(r"prepare\.size +4\n", out)
    assert re.search(r"train +Training +succeeded  2 hosts", out)
    (record,) = (tmp_path / "build" / "rehearsals").glob("toy-*/rehearsal.json")
    assert json.loads(record.read_text())["parameters"]["size"] == 4
    assert f"record, logs and outputs: build/rehearsals/{record.parent.name}" in out
    assert left(docker_engine, tmp_path) == []


def test_a_failed_rehearsal_says_what_failed(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    failing = made.prepare("breaks", "import sys; print('about to fail'); sys.exit('on purpose')")
    (tmp_path / "broken.json").write_text(made.document(failing))
    process = started("document=broken.json")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, out + err
    assert "  | about to fail" in out
    assert "broken: failed in" in out
    assert left(docker_engine, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "JSON"),
        ('{"Version": "2020-12-01", "Steps": [{"Name": "x", "Type": "Lambda", "Arguments": {}}]}', "Steps"),
        (None, "No such file"),
    ],
)
def test_what_is_no_definition_is_refused(started: Started, tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "wrong.json").write_text(text)
    process = started("document=wrong.json")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert told in err
    assert "Traceback" not in err


def test_an_endpoint_is_held_until_a_signal(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    text = made.document(made.prepare(), made.train(values={"rate": "3"}), *made.served()[:3])
    (tmp_path / "held.json").write_text(text)
    process = started("document=held.json", "rehearse.hold=true")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "endpoints answer until Ctrl-C" in line:
            break
    found = re.search(r"curl .* (http://\S+)", "".join(lines))
    assert found, lines
    assert ask(found[1], "2")[:2] == (200, "6")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    assert "held: succeeded" in out
    assert left(docker_engine, tmp_path) == []


def test_a_signal_ends_a_rehearsal_in_order(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    lasting(tmp_path, "stopped")
    process = started("document=stopped.json")
    wait_until_running(docker_engine, tmp_path, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, out + err
    assert "stopped: cancelled" in out
    assert left(docker_engine, tmp_path) == []
    (record,) = (tmp_path / "build" / "rehearsals").glob("*/rehearsal.json")
    assert json.loads(record.read_text())["steps"]["sleeps"]["state"] == "cancelled"


@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_more_signals_do_not_disturb_the_end(
    started: Started, tmp_path: Path, docker_engine: Any, pause: float
) -> None:
    lasting(tmp_path, "hurried")
    process = started("document=hurried.json")
    wait_until_running(docker_engine, tmp_path, process)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    assert left(docker_engine, tmp_path) == []


def test_a_signal_ends_the_copying_of_outputs(started: Started, tmp_path: Path, docker_engine: Any) -> None:
    script = """
        import pathlib
        for number in range(40):
            pathlib.Path(f"/opt/ml/processing/output/data/{number}.bin").write_bytes(bytes(4_000_000))
    """
    (tmp_path / "copied.json").write_text(made.document(made.prepare("fills", script)))
    process = started("document=copied.json")
    deadline = time.monotonic() + SECONDS
    while not (found := list((tmp_path / "build" / "rehearsals").glob("*/outputs/fills/data/*.bin"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no output was copied"
        time.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    copied = list(found[0].parent.iterdir())
    assert len(copied) < 40
    assert {file.stat().st_size for file in copied} <= {4_000_000}
    assert left(docker_engine, tmp_path) == []


def test_a_role_that_is_none_is_refused_at_the_start(started: Started, tmp_path: Path) -> None:
    (tmp_path / "role.json").write_text(made.document(made.prepare()))
    process = started("document=role.json", "parameters.role=foo")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "parameters.role: jobs run with it as their role, and 'foo' is no ARN" in err
    assert not (tmp_path / "build").exists()


def test_leftovers_of_a_killed_rehearsal_are_removed_by_the_next(
    started: Started, tmp_path: Path, docker_engine: Any
) -> None:
    lasting(tmp_path, "killed")
    process = started("document=killed.json")
    wait_until_running(docker_engine, tmp_path, process)
    process.kill()
    process.communicate(timeout=SECONDS)
    [killed] = (tmp_path / "build" / "rehearsals").glob("killed-*")
    (tmp_path / "next.json").write_text(made.document(made.prepare()))
    process = started("document=next.json")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    wait_until_gone(docker_engine, killed.name)
