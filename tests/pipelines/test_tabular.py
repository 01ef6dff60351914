"""Rows of tables to a deployed classifier, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from millrace.pipelines.tabular import Tabular, tabular
from millrace.runners.record import PipelineRun
from millrace.runtime.schemas import ModelCard, read_json_model
from tests.components.tabular_data import CLASSES, write_table


def run(folder: Path, source: Path, *words: str) -> PipelineRun:
    command = [sys.executable, "-m", "millrace", "run", "pipeline=tabular", f"manifest.source={source}", *words]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (found,) = (folder / ".millrace" / "runs").iterdir()
    return PipelineRun.read(found)


def model_of(run: PipelineRun, task: str) -> Path:
    told = run.tasks[task]
    assert told.directory is not None
    return Path(told.directory, told.outputs["model"].path)


@pytest.mark.slow
def test_from_tables_to_an_endpoint(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_table(source / "train.csv", range(80))
    write_table(source / "test.csv", range(200, 225))
    ran = run(
        tmp_path, source, "manifest.labels.column=species", "preprocess.data.columns.ring={kind: hashed, buckets: 8}",
        "preprocess.data.columns.mass={kind: bins, count: 4}", "train.epochs=15", "quantize.scheme=int8",
        "gate.accuracy=0.8",
    )  # fmt: skip
    order = ("manifest", "shard", "analyze", "preprocess", "train", "evaluate", "quantize", "deploy")
    assert {name: task.state.value for name, task in ran.tasks.items()} == dict.fromkeys(order, "succeeded")
    assert ran.tasks["manifest"].metrics["test"] == 75
    assert ran.tasks["deploy"].metrics["agreement"] == 1.0
    card = read_json_model(model_of(ran, "quantize") / "model.json", ModelCard)
    assert card.records.kind == "tabular"
    assert card.records.classes == CLASSES
    kinds = {column.name: column.kind for column in card.records.columns}
    assert kinds == {"bill": "numeric", "mass": "bins", "island": "category", "ring": "hashed", "seen": "date"}


@pytest.mark.slow
def test_penguins_are_told_apart_with_the_settings_that_are_shipped(tmp_path: Path) -> None:
    default = Path(__file__).parents[3] / "shared" / "data"
    source = Path(os.environ.get("MILLRACE_DATA", default)) / "penguins"
    if not source.is_dir():
        pytest.skip("needs the data set penguins: set MILLRACE_DATA")
    ran = run(tmp_path, source / "penguins.csv", "manifest.labels.column=species")
    assert ran.tasks["evaluate"].metrics["accuracy"] >= 0.95
    assert ran.tasks["deploy"].metrics["agreement"] == 1.0
    records = json.loads((model_of(ran, "train") / "model.json").read_bytes())["records"]
    assert {column["name"] for column in records["columns"]} >= {"island", "sex", "year"}


def test_analyze_takes_the_options_of_preprocess_and_an_earlier_analysis() -> None:
    data = {"kind": "tabular", "exclude": ["id"]}
    given = {"preprocess": {"data": data}, "analyze": {"previous": "s3://bucket/analysis"}}
    config = Tabular.model_validate({**given, "manifest": {"source": "s3://bucket/t"}})
    task = next(task for task in tabular.compose(config).tasks if task.name == "analyze")
    assert task.parameters["previous"] == "s3://bucket/analysis"
    assert task.parameters["data"] == config.preprocess.data.model_dump(mode="json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": {"model": {"kind": "cnn"}}}, r"train\.model\.kind=cnn is not for rows of tables: use mlp or custom"),
        (
            {"preprocess": {"data": {"kind": "image"}}},
            "preprocess.data.kind=image: this pipeline is for .*=tabular; use ",
        ),
        (
            {"manifest": {"formats": ["text"], "labels": {"kind": "prefix"}}},
            r"manifest\.formats has text, which preprocess\.data\.kind=tabular can't",
        ),
        (
            {"analyze": {"data": {"kind": "tabular", "exclude": ["id"]}}},
            r"analyze\.data is not preprocess\.data, which analyze takes: set preprocess\.data alone",
        ),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_runs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tabular.model_validate(given)
