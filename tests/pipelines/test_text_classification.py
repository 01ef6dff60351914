"""Tables of texts to a deployed classifier, end to end."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import ValidationError

from millrace.pipelines.text_classification import TextClassification
from millrace.runners.record import PipelineRun
from tests.components.text_data import CLASSES, sentence

CHOSEN = ("activate_my_card", "age_limit", "atm_support", "exchange_rate", "terminate_account")
"""Few of 77 classes, whose words tell them apart, so that few steps do."""


def write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Questions to a bank of the data set banking77 where it is present, else sentences made here."""
    folder = tmp_path / "source"
    folder.mkdir()
    default = Path(__file__).parents[3] / "shared" / "data"
    banking77 = Path(os.environ.get("MILLRACE_DATA", default)) / "banking77"
    for name in ("train", "test"):
        if not banking77.is_dir():
            numbers = range(100) if name == "train" else range(100, 130)
            rows = [(sentence(label, number), CLASSES[label]) for number in numbers for label in range(3)]
        else:
            with (banking77 / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
                rows = [(row["text"], row["category"]) for row in csv.DictReader(stream) if row["category"] in CHOSEN]
        write(folder / f"{name}.csv", rows)
    return folder


@pytest.mark.slow
def test_from_tables_to_an_endpoint(tmp_path: Path, source: Path) -> None:
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "millrace", "run", "pipeline=text_classification", f"tokenize.source={source}"),
            *("tokenize.max_seq_length=32", "tokenize.vocabulary_size=1000", "bert.model.layers=1"),
            *("bert.model.hidden=32", "bert.model.intermediate=64", "bert.model.positions=64", "bert.model.dropout=0"),
            *("bert.learning_rate=5e-3", "bert.epochs=4", "bert.run_sample_predictions=true", "gate.accuracy=0.8"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (folder,) = (tmp_path / ".millrace" / "runs").iterdir()
    run = PipelineRun.read(folder)
    states = {name: task.state.value for name, task in run.tasks.items()}
    assert states == dict.fromkeys(("tokenize", "bert", "evaluate", "deploy"), "succeeded")
    assert run.tasks["evaluate"].metrics["accuracy"] >= 0.9
    assert run.tasks["deploy"].metrics["agreement"] == 1.0
    assert "Sample predictions" in (folder / "report.html").read_text()


def test_lengths_that_differ_are_told_before_anything_runs() -> None:
    with pytest.raises(ValidationError, match=r"bert\.max_seq_length=64, but tokenize\.max_seq_length=32"):
        TextClassification.model_validate({"bert": {"max_seq_length": 64}, "tokenize": {"max_seq_length": 32}})


def test_a_search_that_ends_bad_trials_needs_figures_of_each_epoch() -> None:
    space = {"learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2}}
    with pytest.raises(ValidationError, match=r"gives no validation_accuracy after an epoch, by which bad trials"):
        TextClassification.model_validate({"bert": {"run_validation": False}, "tune": {"space": space}})
