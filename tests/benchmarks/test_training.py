"""The benchmark of training runs and says what it was asked; how fast it was is nobody's test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import read_result

HOME = Path(__file__).parents[2]


@pytest.mark.slow
def test_our_trainer_beside_a_bare_fit(tmp_path: Path) -> None:
    arguments = ["--quick", "--only", "training", "--cases", "single-small", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr  # no target of a quick run is judged
    result = read_result(tmp_path / "training.json")
    [case] = result.cases
    fit, trainer = case.contenders
    assert [fit.name, trainer.name] == ["fit", "trainer"]
    [ratio] = case.ratios
    pairs = zip(trainer.rounds, fit.rounds, strict=True)
    assert ratio.rounds == pytest.approx(
        [(mine.work / mine.seconds) / (other.work / other.seconds) for mine, other in pairs]
    )
    assert (ratio.target, ratio.met) == (0.97, None)
    assert "trainer / fit" in done.stdout
