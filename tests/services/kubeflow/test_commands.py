"""The commands as a person types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from millrace.targets.kubeflow import Kubeflow
from tests.services.kubeflow.conftest import ROOT, SMALL, TOKEN
from tests.services.kubeflow.fake_server import FakeKubeflow, pod_of


class Run:
    """`millrace COMMAND WORDS` against the stand-in."""

    def __init__(self, host: str | None, folder: Path) -> None:
        self.words = ["target=kubeflow", f"target.api.host={host}", "target.api.auth=token"]
        self.folder = folder

    def __call__(self, command: str, *words: str, code: int = 0) -> str:
        answer = subprocess.run(
            [sys.executable, "-m", "millrace", command, *self.words, "target.api.poll_seconds=0.1", *words],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        shown = answer.stdout + answer.stderr
        assert answer.returncode == code, shown
        assert TOKEN not in shown
        return shown


@pytest.fixture
def millrace(target: Kubeflow, tmp_path: Path) -> Run:
    return Run(target.api.host, tmp_path)


def test_from_upload_to_the_end_of_a_run(millrace: Run, fake: FakeKubeflow) -> None:
    document = f"document={SMALL}"
    assert "uploaded (a new pipeline)" in millrace("upload", document)
    assert "is there already" in millrace("upload", document)
    shown = millrace("submit", document, "submit.id=first", "submit.parameters.train.epochs=3")
    assert re.search(r"started run (\S+) of version small-[0-9a-f]{12}", shown)
    run = next(iter(fake.runs))
    assert re.search(rf"^next: millrace status target=kubeflow .* run={run}$", shown, re.MULTILINE)
    again = millrace("submit", document, "submit.id=first", "submit.parameters={train.epochs: 3}")
    assert f"submit.id=first has started run {run} already" in again
    assert list(fake.runs) == [run]

    fake.steps[run] = [{"preprocess#0": "SUCCEEDED", "preprocess#1": "RUNNING"}]
    shown = millrace("status", "pipeline.name=small")
    assert re.search(r"^preprocess +running +\d+ s +1 of 2 passes done$", shown, re.MULTILINE)
    assert re.search(r"^train +pending *$", shown, re.MULTILINE)
    assert re.search(r"^  train_epochs +3$", shown, re.MULTILINE)

    fake.steps[run] = [
        {"preprocess": "SUCCEEDED"},
        {"preprocess": "SUCCEEDED", "train": "SUCCEEDED", "run": "SUCCEEDED"},
    ]
    shown = millrace("status", f"run={run}", "wait=true")
    assert re.search(r"^train +succeeded", shown, re.MULTILINE)
    assert "first: succeeded" in shown
    assert f"/#/runs/details/{run}" in shown


def test_a_failed_run_ends_with_its_log(millrace: Run, fake: FakeKubeflow) -> None:
    millrace("submit", f"document={SMALL}", "submit.id=bad")
    run = next(iter(fake.runs))
    fake.steps[run] = [{"preprocess": "SUCCEEDED", "train": "FAILED", "run": "FAILED"}]
    fake.logs[pod_of("train")] = "".join(f"line {number}\n" for number in range(100))
    ui = f"target.api.ui={fake.url}"  # the swagger knows no logs: they are the UI's
    shown = millrace("status", f"run={run}", "wait=true", ui, code=1)
    assert "train failed; the end of its log:\n  | line 80\n" in shown
    assert "line 79" not in shown
    assert millrace("status", f"run={run}", "logs=train", ui).startswith("line 0\nline 1\n")
    assert "did you mean 'train'?" in millrace("status", f"run={run}", "logs=trian", ui, code=2)


def test_submit_tells_its_id_before_it_asks_for_anything(millrace: Run, fake: FakeKubeflow) -> None:
    shown = millrace("submit", f"document={SMALL}", "submit.wait=false")
    identity = re.match(r"submit\.id=(small-\d{8}-\d{6}-[0-9a-f]{6})\n", shown)
    assert identity is not None, shown
    assert "has started run" in millrace("submit", f"document={SMALL}", f"submit.id={identity[1]}")


def test_a_submit_killed_before_the_answer_is_found_again(millrace: Run, fake: FakeKubeflow, tmp_path: Path) -> None:
    asked, killed = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if (method, path) == ("POST", "/apis/v2beta1/runs"):
            asked.set()
            killed.wait(60)

    fake.broken = hold
    words = [*millrace.words, f"document={SMALL}", "submit.id=first"]
    process = subprocess.Popen(
        [sys.executable, "-m", "millrace", "submit", *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert asked.wait(60)
    process.kill()
    process.wait()
    killed.set()  # only now is the run made
    while not fake.runs:
        time.sleep(0.01)
    assert "has started run" in millrace("submit", f"document={SMALL}", "submit.id=first")
    assert len(fake.runs) == 1


def test_a_schedule_is_made_changed_and_deleted(millrace: Run, fake: FakeKubeflow) -> None:
    document = f"document={SMALL}"
    assert "schedule small: made: cron 0 0 3 * * *" in millrace("schedule", document, "schedule.cron='0 3 * * *'")
    assert "schedule small: unchanged" in millrace("schedule", document, "schedule.cron='0 3 * * *'")
    assert "schedule small: replaced: every 3600 s" in millrace("schedule", document, "schedule.interval_seconds=3600")
    assert len(fake.schedules) == 1
    assert "schedule small: disabled" in millrace("schedule", "schedule.name=small", "schedule.state=disabled")
    assert "schedule small: deleted" in millrace("schedule", "schedule.name=small", "schedule.state=deleted")
    assert not fake.schedules


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("submit", ["submit.parameters.train.epoch=3"], "did you mean 'train_epochs'?"),
        ("submit", ["submit.id='a b'"], "submit.id: String should match pattern"),
        ("upload", ["runtime=[train.epochs]"], "this document is compiled already"),
        ("schedule", ["schedule.cron='0 25 * * *'"], "'25' is no hour"),
        ("schedule", [], "give either schedule.cron"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    millrace: Run, fake: FakeKubeflow, command: str, words: list[str], message: str
) -> None:
    assert message in millrace(command, f"document={SMALL}", *words, code=2)
    assert not fake.runs
    assert not fake.pipelines


def test_a_document_that_the_backend_refuses_is_not_sent(millrace: Run, fake: FakeKubeflow, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(SMALL.read_text().replace("schemaVersion: 2.1.0", "schemaVersion: 1.0.0"))
    assert "schemaVersion" in millrace("upload", f"document={file}", code=2)
    assert not fake.requests


def test_digits_is_compiled_and_uploaded_byte_for_byte(millrace: Run, fake: FakeKubeflow, tmp_path: Path) -> None:
    wanted = ["pipeline=digits", "runtime=[train.epochs]"]
    subprocess.run(
        [sys.executable, "-m", "millrace", "compile", "target=kubeflow", *wanted, "output=digits.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    millrace("upload", *wanted)
    assert list(fake.files.values()) == [(tmp_path / "digits.yaml").read_bytes()]
    millrace("submit", *wanted, "submit.parameters.train.epochs=2")
    assert next(iter(fake.runs.values()))["runtime_config"]["parameters"] == {"train_epochs": 2}
