"""Real components in pods: from pictures to figures, and with kfp's own placeholders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import components, dsl, local

from millrace.components.digits.spec import DigitsParameters
from millrace.components.digits.spec import digits as write_digits
from millrace.runtime.schemas import ShardCounts
from millrace.testing import run_component
from tests.conftest import Bucket
from tests.runtime.test_kubeflow import Pod

METRICS = ("objects", "classes", "rejected", "duplicates")
SMALL = {"data": {"kind": "image", "height": 8, "width": 8, "channels": 1, "encoding": "png"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Pod:
    pod = Pod(folder, "digits", "pictures", {"limit": 12}, outputs=("dataset",))
    assert pod.succeed()["artifacts"]["dataset"]["artifacts"][0]["metadata"] == {"objects": 120}
    return pod


@pytest.fixture(scope="module")
def listing(folder: Path, pictures: Pod) -> Pod:
    outputs = ("manifest", "rejects", "metrics", "summary")
    inputs = {"dataset": pictures.output("dataset")}
    pod = Pod(folder, "manifest", "listing", inputs=inputs, outputs=outputs, metrics=METRICS)
    assert pod.succeed()["parameterValues"]["objects"] == 120.0
    return pod


@pytest.fixture(scope="module")
def shares(folder: Path, pictures: Pod, listing: Pod) -> list[Pod]:
    """preprocess in two pods, on a machine where the dataset is somewhere else."""
    plan = Pod(
        folder,
        "shard",
        "plan",
        inputs={"manifest": listing.output("manifest")},
        outputs=("shards", "metrics"),
        metrics=("objects", "imbalance"),
    )
    plan.succeed()
    moved = folder / "elsewhere"
    pictures.output("dataset").rename(moved)
    pods = []
    for index in (0, 1):
        pod = Pod(
            folder / str(index),
            "preprocess",
            "records",
            SMALL,
            {"share_index": index, "share_count": 2},
            inputs={"shards": plan.output("shards")},
            lists={"dataset": [moved]},
            outputs=("records", "rejects"),
        )
        pod.succeed()
        pods.append(pod)
    return pods


def test_rows_of_a_dataset_have_its_uri(listing: Pod) -> None:
    index = pl.read_parquet(listing.output("manifest") / "index.parquet")
    assert index["prefix"].unique().to_list() == ["s3://store/dataset/"]
    assert index["dataset_path"].null_count() == 0


def test_shares_read_the_dataset_where_it_is(shares: list[Pod]) -> None:
    made = [{path.name for path in pod.output("records").iterdir()} for pod in shares]
    assert made[0] & made[1] == {"schema.json"}
    rejected = [pl.read_parquet(pod.output("rejects") / "*.parquet").height for pod in shares]
    assert rejected == [0, 0]
    written = [ShardCounts.model_validate_json(file.read_bytes()) for pod in shares for file in counted(pod)]
    assert sum(counts.records for counts in written) == 120


def counted(pod: Pod) -> list[Path]:
    return sorted(pod.output("records").glob("*-of-*.json"))


def test_train_and_evaluate_on_the_union_of_the_shares(folder: Path, shares: list[Pod]) -> None:
    records = {"records": [pod.output("records") for pod in shares]}
    parameters = {"model": {"kind": "mlp", "units": [16]}, "epochs": 1}
    trained = Pod(folder, "train", "trained", parameters, lists=records, outputs=("model",))
    card = trained.succeed()["artifacts"]["model"]["artifacts"][0]["metadata"]
    assert (card["format"], card["classes"]) == ("keras", 10)
    report = Pod(
        folder,
        "evaluate",
        "report",
        {"latency_runs": 1, "mistakes": 2},
        inputs={"model": trained.output("model")},
        lists=records,
        metadata=card | {"store_session_info": "{}", "display_name": "model"},
        outputs=("report", "predictions", "metrics", "summary", "confusion_matrix", "roc"),
        metrics=("accuracy", "roc_auc"),
    )
    told = {name: item["artifacts"][0]["metadata"] for name, item in report.succeed()["artifacts"].items()}
    assert set(told) == set(report.outputs)
    assert {"accuracy", "roc_auc", "f1.7"} <= set(told["metrics"])
    rows = told["confusion_matrix"]["confusionMatrix"]["rows"]
    assert len(rows) == len(told["confusion_matrix"]["confusionMatrix"]["annotationSpecs"]) == 10
    points = told["roc"]["confidenceMetrics"]
    assert (points[0]["recall"], points[-1]["recall"]) == (0, 1)
    assert points[0]["confidenceThreshold"] > 1 > points[1]["confidenceThreshold"]
    assert report.output("report").read_text().lstrip().lower().startswith("<!doctype html>")
    answers = pl.read_parquet(report.output("predictions") / "answers-00000.parquet")
    assert answers["right"].mean() == pytest.approx(told["metrics"]["accuracy"])
    assert "| accuracy |" in report.output("summary").read_text()


def test_a_source_in_a_bucket(s3: Bucket, tmp_path: Path) -> None:
    pictures = run_component(write_digits, DigitsParameters(limit=3), tmp_path / "digits").outputs["dataset"]
    source = s3.upload(pictures, "digits")
    pod = Pod(tmp_path, "manifest", parameters={"source": source}, outputs=("manifest",), metrics=METRICS)
    assert pod.succeed()["parameterValues"]["objects"] == 30.0


def toy(name: str, inputs: dict[str, str], outputs: dict[str, str], *more: str) -> Any:
    """A toy as a component of kfp."""
    artifacts = {"Dataset", "Metrics", "Markdown"}
    words = ["--executor-input", "{{$}}", "--run", dsl.PIPELINE_JOB_ID_PLACEHOLDER, "--task", name, *more]
    for flag, ports in (("input", inputs), ("output", outputs)):
        for port in (port for port, kind in ports.items() if kind in artifacts):
            words += [f"--{flag}", f"{port}={{{{$.{flag}s.artifacts['{port}'].path}}}}"]
    # kfp's runner without containers takes a command only when its own executor is named in it
    command = ["sh", "-c", 'exec "$@"', "kfp.dsl.executor_main", sys.executable, "-P", "-m", "millrace", "exec"]
    form = {
        "name": name,
        "inputs": [{"name": port, "type": kind} for port, kind in inputs.items()],
        "outputs": [{"name": port, "type": kind} for port, kind in outputs.items()],
        "implementation": {
            "container": {"image": "none", "command": command, "args": [f"tests.toys:{name}", *words]},
        },
    }
    return components.load_component_from_text(json.dumps(form))


@pytest.mark.usefixtures("after_kfp_local")
def test_kfp_runs_the_same_command(tmp_path: Path) -> None:
    outputs = {"words": "Dataset", "metrics": "Metrics", "summary": "Markdown", "length": "Float"}
    write = toy("write", {"parameters": "String", "text": "String"}, outputs, "--open", "text=text")
    shares = {"parameters": "String", "share_index": "Integer", "share_count": "Integer"}
    split = toy("split", {"words": "Dataset", **shares}, {"parts": "Dataset"})
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))

    def toys() -> None:
        written = write(parameters='{"text": "replaced"}', text="x y z")
        split(words=written.outputs["words"], parameters="{}", share_index=1, share_count=2)

    toys.__annotations__ = {}  # kfp can't read annotations that are text
    dsl.pipeline(name="toys")(toys)()
    (parts,) = tmp_path.glob("toys-*/split/parts")
    assert [path.read_text() for path in sorted(parts.iterdir())] == ["y", "words"]
    (answer,) = tmp_path.glob("toys-*/write/executor_output.json")
    assert json.loads(answer.read_text())["parameterValues"] == {"length": 3.0}
