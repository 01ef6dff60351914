"""The pipeline digits, compiled for SageMaker, is rehearsed with the real images from pictures to an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runners.rehearsals import SECONDS, Started, starting
from tests.runners.sagemaker.test_rehearsal import ask_bytes

pytestmark = [pytest.mark.docker, pytest.mark.slow]

_LIMIT = 30
"""Pictures of each of the ten digits."""
_COMPILE = (
    "compile",
    "pipeline=digits",
    "target=sagemaker",
    "target.training.spot=true",
    f"pictures.limit={_LIMIT}",
    "predict={}",
    "tune.trials=3",
    "tune.trial.epochs=2",
    "train.epochs=10",
    "hosts=2",
    "gate.accuracy=0.8",
    "output=digits.json",
)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Starts `millrace rehearse` in the test's folder."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with starting(tmp_path) as start:
        yield start


def test_two_hosts_preprocess_two_train_three_jobs_search_and_an_endpoint_answers(
    started: Started, tmp_path: Path, images: dict[str, str]
) -> None:
    assert sorted(images) == ["data", "serve", "train"]
    subprocess.run([sys.executable, "-m", "millrace", *_COMPILE], cwd=tmp_path, check=True)
    words = ["document=digits.json", "rehearse.hold=true", "rehearse.interrupt={train: 6}"]
    process = started(*words, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "endpoints answer until Ctrl-C" in line:
            break
    else:
        pytest.fail("".join(lines))
    record, folder = written(tmp_path)
    right = 0
    pictures = sorted((folder / "outputs" / "pictures" / "dataset").glob("*/*.png"))
    assert len(pictures) == 10 * _LIMIT
    [address] = record["endpoints"].values()
    for picture in pictures[::15]:
        status, answer, _ = ask_bytes(address, picture.read_bytes(), {"Content-Type": "image/png"})
        assert status == 200, answer
        right += json.loads(answer)["predictions"][0]["label"] == picture.parent.name
    assert right > 0.8 * len(pictures[::15])
    process.terminate()
    rest, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, rest

    record, _ = written(tmp_path)
    steps: dict[str, Any] = record["steps"]
    assert {step["state"] for step in steps.values()} == {"succeeded"}, steps
    assert steps["preprocess"]["hosts"] == steps["train"]["hosts"] == 2
    assert "interrupted after 6 s as spot capacity is, and started again" in "".join(record["notes"])
    assert len(steps["preprocess"]["logs"]) == len(steps["train"]["logs"]) == 2
    assert len(steps["tune"]["trials"]) == 3
    best = max(trial["objective"] or 0 for trial in steps["tune"]["trials"])
    assert (
        steps["tune"]["properties"]["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == best
    )
    assert steps["evaluate"]["metrics"]["accuracy"] >= 0.8
    assert steps["deploy"]["metrics"]["agreement"] == 1
    [transformed] = [step["name"] for step in steps.values() if step["type"] == "Transform"]
    answers = {f"{file.parent.name}/{file.name}": file for file in (folder / "outputs" / transformed).rglob("*.out")}
    assert set(answers) == {f"{picture.parent.name}/{picture.name}.out" for picture in pictures}, "each is answered"
    labels = [json.loads(file.read_text())["predictions"][0]["label"] for file in answers.values()]
    assert sum(label == file.parent.name for label, file in zip(labels, answers.values(), strict=True)) > 240


def written(folder: Path) -> tuple[dict[str, Any], Path]:
    [file] = (folder / "build" / "rehearsals").glob("digits-*/rehearsal.json")
    return json.loads(file.read_text()), file.parent
