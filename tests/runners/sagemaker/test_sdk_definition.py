"""Definitions that SageMaker's own SDK has made are rehearsed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.runners.record import RunState
from tests.runners.sagemaker.rehearsed import Rehearsed, states

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def text() -> str:
    if importlib.util.find_spec("sagemaker") is None:
        pytest.skip("needs the SageMaker SDK")
    done = subprocess.run(
        [sys.executable, "-m", "tests.runners.sagemaker.sdk_definition"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_steps_of_the_sdk_run(rehearsed: Rehearsed, text: str) -> None:
    record = rehearsed(text, size=5)
    assert record.state is RunState.SUCCEEDED, record.reason
    assert states(record) == {"Enough": "succeeded", "Prepare": "succeeded", "TooFew": "skipped", "Train": "succeeded"}
    assert record.steps["Prepare"].metrics == {"size": 5}
    assert record.steps["Train"].hosts == 2
    assert record.steps["Train"].metrics == {"score": 0.5}


def test_its_condition_decides(rehearsed: Rehearsed, text: str) -> None:
    record = rehearsed(text, least=4)
    assert record.reason == "TooFew: only 3"
