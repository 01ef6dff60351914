"""Tables of texts to a deployed classifier, end to end."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from millrace.pipelines.text_classification import TextClassification, text_classification
from millrace.runners.record import PipelineRun
from millrace.specs.pipeline import Task
from tests.components.text_data import CLASSES, sentence, vocabulary

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


SMALL = (
    "bert.model.layers=1", "bert.model.hidden=32", "bert.model.intermediate=64", "bert.model.positions=64",
    "bert.model.dropout=0", "bert.learning_rate=5e-3", "bert.epochs=4", "preprocess.data.max_seq_length=32",
    "preprocess.data.vocabulary_size=1000", "bert.buckets=[16]",
)  # fmt: skip
CHAIN = ("manifest", "shard", "analyze", "preprocess", "bert", "evaluate", "deploy")


def run(folder: Path, source: Path, *words: str) -> PipelineRun:
    command = (sys.executable, "-m", "millrace", "run", "pipeline=text_classification", f"manifest.source={source}")
    answer = subprocess.run([*command, *SMALL, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (found,) = (folder / ".millrace" / "runs").iterdir()
    return PipelineRun.read(found)


@pytest.mark.slow
def test_from_tables_to_an_endpoint(tmp_path: Path, source: Path) -> None:
    ran = run(tmp_path, source, "bert.run_sample_predictions=true", "gate.accuracy=0.8")
    assert {name: task.state.value for name, task in ran.tasks.items()} == dict.fromkeys(CHAIN, "succeeded")
    assert ran.tasks["evaluate"].metrics["accuracy"] >= 0.9
    assert ran.tasks["deploy"].metrics["agreement"] == 1.0
    (folder,) = (tmp_path / ".millrace" / "runs").iterdir()
    assert "Sample predictions" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_from_files_in_class_folders_with_a_vocabulary(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for label, name in enumerate(CLASSES):
        (source / name).mkdir(parents=True)
        for number in range(60):
            (source / name / f"{number}.txt").write_text(sentence(label, number), encoding="utf-8")
    (tmp_path / "vocabulary.txt").write_bytes(vocabulary())
    ran = run(
        tmp_path, source, "manifest.formats=[text]", "manifest.labels.kind=prefix", "gate.accuracy=1",
        f"preprocess.data.vocabulary={tmp_path / 'vocabulary.txt'}", "bert.epochs=2",
    )  # fmt: skip
    states = {name: task.state.value for name, task in ran.tasks.items()}
    assert "analyze" not in states
    assert states["evaluate"] == "succeeded"
    assert ran.tasks["manifest"].metrics["objects"] + ran.tasks["manifest"].metrics["rejected"] == 180
    assert ran.tasks["evaluate"].metrics["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"bert": {"max_seq_length": 64}, "preprocess": {"data": {"kind": "text", "max_seq_length": 32}}},
            r"bert\.max_seq_length=64, but preprocess\.data\.max_seq_length=32",
        ),
        ({"preprocess": {"data": {"kind": "tabular"}}}, "preprocess.data.kind=tabular: this .*; use pipeline=tabular"),
        (
            {"manifest": {"formats": ["png"], "labels": {"kind": "prefix"}}},
            "manifest.formats has png, which preprocess.data.kind=text can't read",
        ),
        (
            {
                "preprocess": {"data": {"kind": "text", "vocabulary": "/models/vocab.txt"}},
                "analyze": {"previous": "run:1/analyze"},
            },
            r"analyze\.previous is for a vocabulary that analyze built, and preprocess\.data\.vocabulary gives one",
        ),
        ({"quantize": {"scheme": "int8"}}, "dynamic or float16 is for texts"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_runs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TextClassification.model_validate(given)


def tasks_with(data: dict[str, str]) -> dict[str, Task]:
    given = {"manifest": {"source": "s3://bucket/t"}, "preprocess": {"data": data}}
    composed = text_classification.compose(TextClassification.model_validate(given))
    return {task.name: task for task in composed.tasks}


def test_the_text_alone_tells_which_rows_are_equal_and_a_vocabulary_spares_a_task() -> None:
    tasks = tasks_with({"kind": "text", "column": "question"})
    assert tasks["manifest"].parameters["columns"] == ["question"]
    assert "analyze" in tasks
    assert "analyze" not in tasks_with({"kind": "text", "vocabulary": "/models/vocab.txt"})


def test_a_search_that_ends_bad_trials_needs_figures_of_each_epoch() -> None:
    space = {"learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2}}
    with pytest.raises(ValidationError, match=r"gives no validation_accuracy after an epoch, by which bad trials"):
        TextClassification.model_validate({"bert": {"run_validation": False}, "tune": {"space": space}})
