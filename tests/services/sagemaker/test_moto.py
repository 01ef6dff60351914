"""The commands against moto as it is, without what the stand-in of the other tests adds or puts right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import backends
from moto.server import ThreadedMotoServer

from tests.services.sagemaker.conftest import BUCKET, ROLE, SMALL, Run
from tests.services.sagemaker.fake import ACCOUNT, SECRET

IMAGES = f"target.images.prefix={ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/millrace/"
NOTE = "note: states of steps are not told: what answers here does not know ListPipelineExecutionSteps"


@pytest.fixture(scope="module")
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto(moto_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """moto's client of SageMaker, in an account without pipelines and schedules."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": moto_server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("sagemaker", "scheduler"):
        get: Any = backends.get_backend
        for account in list(get(name).values()):
            account.reset()
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    return boto3.client("sagemaker")


@pytest.fixture
def millrace(moto: Any, tmp_path: Path) -> Run:
    return Run(tmp_path)


def runs(moto: Any, name: str) -> list[str]:
    listed = moto.list_pipeline_executions(PipelineName=name)["PipelineExecutionSummaries"]
    return [item["PipelineExecutionArn"].rpartition("/")[2] for item in listed]


def test_digits_is_compiled_uploaded_and_submitted(millrace: Run, moto: Any, tmp_path: Path) -> None:
    wanted = ["pipeline=digits", "runtime=[train.epochs]", IMAGES]
    assert "note: " not in millrace("compile", *wanted, "output=digits.json")
    assert "pipeline digits: created" in millrace("upload", *wanted)
    assert "pipeline digits: unchanged" in millrace("upload", *wanted)
    stored = moto.describe_pipeline(PipelineName="digits")
    assert stored["PipelineDefinition"].encode() == (tmp_path / "digits.json").read_bytes()

    submit = ["document=digits.json", "submit.id=one", "submit.parameters.train.epochs=3"]
    first = millrace("submit", *submit)
    (run,) = runs(moto, "digits")
    assert f"digits: started run {run} (pipeline unchanged)" in first
    assert f"submit.id=one has started run {run} already: no other was started" in millrace("submit", *submit)
    assert runs(moto, "digits") == [run]
    shown = millrace("submit", "document=digits.json", "submit.id=two", "submit.wait=true")
    assert NOTE in shown
    assert re.search(r"^two: succeeded, started ", shown, re.M)
    assert len(runs(moto, "digits")) == 2

    shown = millrace("status", "pipeline.name=digits")
    assert re.search(r"^two: succeeded, started ", shown, re.M), "the latest"
    assert re.search(r"^train +unknown +Training", shown, re.M)
    assert NOTE in shown
    shown = millrace("status", "pipeline.name=digits", f"run={run}", "wait=true")
    assert re.search(r"^one: succeeded, started ", shown, re.M)
    assert re.search(r"^  train_epochs +3$", shown, re.M)


def test_a_first_submit_makes_the_pipeline(millrace: Run, moto: Any) -> None:
    shown = millrace("submit", f"document={SMALL}", "submit.id=one")
    (run,) = runs(moto, "small")
    assert f"small: started run {run} (pipeline created)" in shown


def test_a_first_schedule_makes_the_pipeline(millrace: Run, moto: Any) -> None:
    words = [f"document={SMALL}", "schedule.cron='0 3 * * *'"]
    assert "schedule small: made: cron(0 3 * * ? *)" in millrace("schedule", *words)
    assert "schedule small: unchanged" in millrace("schedule", *words)
    assert moto.describe_pipeline(PipelineName="small")["RoleArn"] == ROLE
    (schedule,) = boto3.client("scheduler").list_schedules()["Schedules"]
    assert schedule["Name"] == "small"
    assert "schedule small: deleted" in millrace("schedule", "schedule.name=small", "schedule.state=deleted")


def test_a_large_definition(millrace: Run, moto: Any, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text(SMALL.read_text() + " " * 100_000)
    assert f"its definition is at s3://{BUCKET}/millrace/definitions/" in millrace("upload", f"document={file}")
    assert "pipeline large: unchanged" in millrace("upload", f"document={file}")
    assert "started run" in millrace("submit", f"document={file}", "submit.id=one", "submit.wait=true")


def test_what_is_not_there(millrace: Run, moto: Any) -> None:
    shown = millrace("status", "pipeline.name=small", code=2)
    assert "there is no pipeline 'small' in us-east-1" in shown
    millrace("upload", f"document={SMALL}")
    assert "pipeline 'small' has no run yet" in millrace("status", "pipeline.name=small", code=2)
    shown = millrace("status", "pipeline.name=small", "run=abcdefghijkl", code=2)
    assert "there is no such run in us-east-1" in shown


def test_a_failed_run_and_a_log_that_is_not_told(millrace: Run, moto: Any) -> None:
    millrace("submit", f"document={SMALL}", "submit.id=one")
    pipelines: Any = backends.get_backend("sagemaker")[ACCOUNT]["us-east-1"]
    (execution,) = pipelines.pipelines["small"].pipeline_executions.values()
    execution.pipeline_execution_status = "Failed"
    shown = millrace("status", "pipeline.name=small", code=1)
    assert re.search(r"^one: failed, started ", shown, re.M)
    shown = millrace("status", "pipeline.name=small", "logs=train", code=2)
    assert "there is no log of step 'train': what answers here does not tell its job" in shown


def test_doctor_says_what_was_not_looked_at(millrace: Run, moto: Any) -> None:
    shown = millrace("doctor", "pipeline=digits", IMAGES, code=1)
    assert "quotas: not looked at: service-quotas:ListServiceQuotas: what answers here does not know this" in shown
    assert "<" not in shown
