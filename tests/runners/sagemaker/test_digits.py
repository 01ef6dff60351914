"""The pipeline digits, compiled for SageMaker, is rehearsed with the real images from pictures to an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runners.sagemaker.test_rehearsal import ask_bytes

pytestmark = [pytest.mark.docker, pytest.mark.slow]

_COMPILE = (
    "compile",
    "pipeline=digits",
    "target=sagemaker",
    "target.training.spot=true",
    "predict={}",
    "tune.trials=3",
    "tune.trial.epochs=4",
    "train.epochs=12",
    "hosts=2",
    "gate.accuracy=0.8",
    "output=digits.json",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_two_hosts_preprocess_two_train_three_jobs_search_and_an_endpoint_answers(
    here: Path, images: dict[str, str]
) -> None:
    assert sorted(images) == ["data", "serve", "train"]
    subprocess.run([sys.executable, "-m", "millrace", *_COMPILE], cwd=here, check=True)
    words = ["rehearse", "document=digits.json", "rehearse.hold=true", "rehearse.interrupt={train: 12}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "millrace", *words],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "endpoints answer until Ctrl-C" in line:
            break
    else:
        pytest.fail("".join(lines))
    record, folder = written(here)
    right = 0
    pictures = sorted((folder / "outputs" / "pictures" / "dataset").glob("*/*.png"))[::90]
    for picture in pictures:
        [address] = record["endpoints"].values()
        status, answer, _ = ask_bytes(address, picture.read_bytes(), {"Content-Type": "image/png"})
        assert status == 200, answer
        right += json.loads(answer)["predictions"][0]["label"] == picture.parent.name
    assert right > 0.8 * len(pictures) > 10
    process.terminate()
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest

    record, _ = written(here)
    steps: dict[str, Any] = record["steps"]
    assert {step["state"] for step in steps.values()} == {"succeeded"}, steps
    assert steps["preprocess"]["hosts"] == steps["train"]["hosts"] == 2
    assert "interrupted after 12 s as spot capacity is, and started again" in "".join(record["notes"])
    assert len(steps["preprocess"]["logs"]) == len(steps["train"]["logs"]) == 2
    assert len(steps["tune"]["trials"]) == 3
    best = max(trial["objective"] or 0 for trial in steps["tune"]["trials"])
    assert (
        steps["tune"]["properties"]["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == best
    )
    assert steps["evaluate"]["metrics"]["accuracy"] >= 0.8
    assert steps["deploy"]["metrics"]["agreement"] == 1
    transformed = [step for step in steps.values() if step["type"] == "Transform"]
    assert len(transformed) == 1
    assert len(list((folder / "outputs" / transformed[0]["name"]).rglob("*.out"))) > 0


def written(here: Path) -> tuple[dict[str, Any], Path]:
    [file] = (here / "build" / "rehearsals").glob("digits-*/rehearsal.json")
    return json.loads(file.read_text()), file.parent
