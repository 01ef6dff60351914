"""The commands as a person types them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.services.sagemaker.conftest import SMALL, Run
from tests.services.sagemaker.fake import FakeAws, RefusalError


@pytest.fixture
def millrace(aws: FakeAws, tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_from_upload_to_the_end_of_a_run(millrace: Run, aws: FakeAws) -> None:
    document = f"document={SMALL}"
    shown = millrace("upload", document)
    assert "pipeline small: created\n" in shown
    assert re.search(rf"^next: millrace submit target=sagemaker .* {re.escape(document)}$", shown, re.M)
    aws.calls.clear()
    assert "pipeline small: unchanged\n" in millrace("upload", document)
    assert aws.changes() == []

    shown = millrace("submit", document, "submit.id=first", "submit.parameters.train.epochs=5")
    (run,) = aws.executions.values()
    name = run.arn.rpartition("/")[2]
    assert f"small: started run {name} (pipeline unchanged)" in shown
    assert re.search(rf"^next: millrace status pipeline.name=small target=sagemaker .* run={name}$", shown, re.M)
    again = millrace("submit", document, "submit.id=first", "submit.parameters={train.epochs: 5}")
    assert f"submit.id=first has started run {name} already: no other was started" in again
    assert len(aws.executions) == 1

    shown = millrace("status", "pipeline.name=small")
    assert re.search(r"^prepare +running +Processing +\d+ s +starting", shown, re.M)
    assert re.search(r"^train +pending +Training", shown, re.M)
    assert re.search(r"^  train_epochs +5$", shown, re.M)
    shown = millrace("status", "pipeline.name=small", f"run={name}", "wait=true")
    assert re.search(r"^train +succeeded", shown, re.M)
    assert "first: succeeded, started" in shown
    assert "see it: https://us-east-1.console.aws.amazon.com/sagemaker/home" in shown


def test_a_failed_run_ends_with_its_log(millrace: Run, aws: FakeAws) -> None:
    aws.play.paused = True
    millrace("submit", f"document={SMALL}", "submit.id=bad")
    (run,) = aws.executions.values()
    aws.play.failing["train"] = "AlgorithmError: no memory"
    run.end()
    lines = [f"line {number}" for number in range(100)]
    aws.write_log("/aws/sagemaker/TrainingJobs", f"{run.job('train')}/algo-1-1700000000", lines)
    shown = millrace("status", f"run={run.arn}", "wait=true", code=1)
    assert "AlgorithmError: no memory" in shown
    assert "train failed; the end of its log:\n  | line 80\n" in shown
    assert "line 79" not in shown
    assert (
        f"train: https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/{run.job('train')}"
        in shown
    )
    assert millrace("status", f"run={run.arn}", "logs=train").startswith("line 0\nline 1\n")
    assert millrace("status", f"run={run.arn}", "logs=train", "wait=true", code=1).endswith("line 99\n")
    assert "did you mean 'train'?" in millrace("status", f"run={run.arn}", "logs=trian", code=2)


def test_submit_tells_its_id_before_it_asks_for_anything(millrace: Run, aws: FakeAws) -> None:
    aws.broken = lambda call: RefusalError("no", "ExpiredToken")
    shown = millrace("submit", f"document={SMALL}", code=2)
    assert re.match(r"submit\.id=small-\d{8}-\d{6}-[0-9a-f]{6}\n", shown), shown
    assert "error: the AWS credentials have expired: log in again" in shown


def test_ctrl_c_leaves_the_run_running(millrace: Run, aws: FakeAws) -> None:
    aws.play.paused = True
    words = millrace.command("submit", f"document={SMALL}", "submit.id=first", "wait=true")
    process = subprocess.Popen(
        words,
        cwd=millrace.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what started the tests may ignore it
    )
    deadline = time.monotonic() + 120
    while aws.count("sagemaker:ListPipelineExecutionSteps") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    (run,) = aws.executions.values()
    assert run.status == "Executing"
    assert aws.count("sagemaker:StopPipelineExecution") == 0
    assert f"run={run.arn.rpartition('/')[2]} wait=true" in shown
    assert f"aws sagemaker stop-pipeline-execution --pipeline-execution-arn {run.arn}" in shown


def test_a_schedule_is_made_changed_and_deleted(millrace: Run, aws: FakeAws) -> None:
    document = f"document={SMALL}"
    assert "schedule small: made: cron(0 3 * * ? *)" in millrace("schedule", document, "schedule.cron='0 3 * * *'")
    assert "schedule small: unchanged" in millrace("schedule", document, "schedule.cron='0 3 * * *'")
    assert "schedule small: changed: rate(1 hour)" in millrace("schedule", document, "schedule.interval_seconds=3600")
    assert "schedule small: disabled" in millrace("schedule", "schedule.name=small", "schedule.state=disabled")
    assert "schedule small: deleted" in millrace("schedule", "schedule.name=small", "schedule.state=deleted")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("submit", ["submit.parameters.train.epoch=3"], "did you mean 'train_epochs'?"),
        ("submit", ["submit.experiment=mine"], "submit.experiment='mine'"),
        ("upload", ["runtime=[train.epochs]"], "this document is compiled already"),
        ("schedule", ["schedule.cron='0 25 * * *'"], "'25' is no hour"),
        ("schedule", ["schedule.cron='0 3 * * *'", "schedule.catch_up=true"], "schedule.catch_up"),
        ("upload", ["target.role=null"], "target.role is not set"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    millrace: Run, aws: FakeAws, command: str, words: list[str], message: str
) -> None:
    assert message in millrace(command, f"document={SMALL}", *words, code=2)
    assert aws.calls == []


def test_a_definition_that_sagemaker_refuses_is_not_sent(millrace: Run, aws: FakeAws, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(SMALL.read_text().replace("ml.m5.xlarge", "ml.m5.huge"))
    assert "ml.m5.huge" in millrace("upload", f"document={file}", code=2)
    assert aws.calls == []


def test_digits_is_compiled_and_uploaded_byte_for_byte(millrace: Run, aws: FakeAws, tmp_path: Path) -> None:
    images = "target.images.prefix=123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/"
    wanted = ["pipeline=digits", "runtime=[train.epochs]", images]
    millrace("compile", *wanted, "output=digits.json")
    shown = millrace("upload", *wanted)
    assert "pipeline digits: created" in shown
    asked = next(call.asked for call in aws.calls if call.name == "sagemaker:CreatePipeline")
    assert asked["PipelineDefinition"].encode() == (tmp_path / "digits.json").read_bytes()
    assert re.search(r"^next: millrace submit .* pipeline=digits 'runtime=\[train.epochs\]' target.images", shown, re.M)
    assert "SageMaker pulls images from ECR only" in millrace("upload", "pipeline=digits", code=2)
