"""The benchmark of training runs and says what it was asked; how fast it was is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]


@pytest.mark.slow
def test_our_trainer_beside_a_bare_fit(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    arguments = ["--quick", "--groups", "single-small", "--results", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *arguments], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr  # 1: slower than asked for
    found = json.loads(results.read_text())
    assert [team["team"] for team in found["teams"]] == ["fit", "trainer"]
    assert all(rate > 0 for team in found["teams"] for rate in team["pictures_a_second"]["rounds"])
    [ratio] = found["ratios"]
    rates = [team["pictures_a_second"]["rounds"] for team in found["teams"]]
    assert ratio["ratio"]["rounds"] == [ours / theirs for theirs, ours in zip(*rates, strict=True)]
    assert ratio["met"] == (ratio["ratio"]["median"] >= ratio["target"])
    assert "trainer / fit" in done.stdout
