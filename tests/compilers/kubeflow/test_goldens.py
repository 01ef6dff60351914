"""Whole documents, as they were looked at and found good."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "goldens" / "kubeflow"
RENEW = "MILLRACE_RENEW_GOLDENS=1 pytest tests/compilers/kubeflow/test_goldens.py"

COMMANDS = {
    "digits": ["pipeline=digits"],
    "text_classification": ["pipeline=text_classification", "manifest.source=s3://bucket/texts", "hosts=2"],
    "tabular": ["pipeline=tabular", "manifest.source=s3://bucket/rows", "manifest.labels.column=species"],
    "image_classification": ["pipeline=image_classification", "manifest.source=s3://bucket/flowers", "workers=4"],
    "everything": [
        "pipeline=digits",
        "runtime=[train.epochs,train.learning_rate,quantize.scheme,gate.accuracy]",
        "target.pipeline_root=s3://bucket/runs",
        "target.images.prefix=registry.example.org/team/millrace/",
        "target.service_account=runner",
        "target.tuning.kind=katib",
        "target.pod.environment.AWS_REGION=eu-central-1",
        "target.pod.secret_variables=[{variable: TOKEN, secret: store, key: token}]",
        "target.pod.image_pull_secrets=[registry]",
        "target.tasks.train.node_selector={pool: gpu}",
        "target.tasks.train.tolerations=[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]",
        "target.tasks.train.shared_memory_gib=2",
        "target.tasks.preprocess.cache=false",
    ],
    "train.component": ["component=train"],
}


def compiled(name: str, folder: Path) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "millrace", "compile", "target=kubeflow", "target.images.tag='1.0'", "output=-"]
        + COMMANDS[name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return re.sub(r"^sdkVersion: .*$", "sdkVersion: any", answer.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_documents_are_as_they_were(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.yaml"
    found = compiled(name, tmp_path)
    if os.environ.get("MILLRACE_RENEW_GOLDENS"):
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    difference = "".join(
        difflib.unified_diff(expected.splitlines(True), found.splitlines(True), f"goldens/kubeflow/{path.name}", "now")
    )
    assert not difference, f"{difference}\nIf this is how it shall be: {RENEW}"
