"""Whole definitions, as they were looked at and found good. SageMaker itself has met none of them."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "goldens" / "sagemaker"
RENEW = "MILLRACE_RENEW_GOLDENS=1 pytest tests/compilers/sagemaker/test_goldens.py"

COMMANDS = {
    "digits": ["pipeline=digits"],
    "text_classification": ["pipeline=text_classification", "manifest.source=s3://bucket/texts", "hosts=2"],
    "tabular": ["pipeline=tabular", "manifest.source=s3://bucket/rows", "manifest.labels.column=species"],
    "everything": [
        "pipeline=digits",
        "runtime=[train.epochs,train.batch_size,tune.trials,quantize.scheme,gate.accuracy]",
        "target.role=arn:aws:iam::123456789012:role/millrace",
        "target.bucket=vision-store",
        "target.prefix=team/runs",
        "target.region=eu-central-1",
        "target.images.prefix=123456789012.dkr.ecr.eu-central-1.amazonaws.com/millrace/",
        "target.unmet=fail",
        "target.tags={team: vision}",
        "target.volume_key=alias/volumes",
        "target.output_key=alias/outputs",
        "target.network={subnets: [subnet-1, subnet-2], security_groups: [sg-1], encrypt: true}",
        "target.job.environment.LEVEL=high",
        "target.tasks.evaluate={instance: ml.c5.2xlarge, volume_gib: 100, timeout_minutes: 30, retries: 5}",
        "target.tasks.preprocess.cache=false",
        "target.training={mode: FastFile, spot: true, max_wait_minutes: 3000}",
        "target.training.debugger={collections: {losses: {save_interval: '10'}}}",
        "target.training.profiler={interval_ms: 1000}",
        "target.training.metrics=[{name: rate, regex: 'learning_rate=(\\S+)'}]",
        "target.tuning={early_stopping: 'Off', warm_start: {parents: [earlier]}, seed: 7}",
        "target.serving.registration={group: digits}",
        "target.serving.capture={percent: 10}",
        "target.serving.rollout={kind: canary, alarms: [errors]}",
        "target.serving.variants=[{name: other, model: older, weight: 1, count: 2}]",
        "deploy.scaling={min_replicas: 2, max_replicas: 4, metric: rps, target: 100}",
    ],
}


def compiled(name: str, folder: Path) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "millrace", "compile", "target=sagemaker", "target.images.tag='1.0'", "output=-"]
        + COMMANDS[name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_definitions_are_as_they_were(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.json"
    found = compiled(name, tmp_path)
    if os.environ.get("MILLRACE_RENEW_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    difference = "".join(
        difflib.unified_diff(expected.splitlines(True), found.splitlines(True), f"goldens/sagemaker/{path.name}", "now")
    )
    assert not difference, f"{difference}\nIf this is how it shall be: {RENEW}"
