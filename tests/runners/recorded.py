"""A recorded run of nine tasks with real artifacts, in every state a task can end in, full of hostile names."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import JsonValue

from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState
from millrace.runtime.answer_tables import AnswerWriter
from millrace.runtime.execute import digest
from millrace.runtime.task import Failure, MadeArtifact
from millrace.specs import (
    Artifact,
    ComponentSpec,
    Condition,
    ConfusionMatrix,
    Curve,
    Dataset,
    Distribution,
    Endpoint,
    ForEach,
    Lines,
    Manifest,
    Metrics,
    MetricSpec,
    Model,
    PipelineSpec,
    Port,
    Predictions,
    Records,
    Rejects,
    Report,
    Scatter,
    Shards,
    Task,
    TaskOutput,
)
from millrace.specs.charts import Chart, Table, charts_adapter

__all__ = ["HOSTILE", "START", "add_output", "graph", "recorded_run", "write_rejects"]

HOSTILE = "<script>window.hacked = 1</script>\"'><img src=x onerror='window.hacked = 1'>&amp;"
START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)


def component(
    name: str,
    inputs: dict[str, type[Artifact]],
    outputs: dict[str, type[Artifact]],
    metrics: tuple[str, ...] = (),
    defaults: dict[str, JsonValue] | None = None,
) -> ComponentSpec:
    shards = name in ("preprocess",)
    return ComponentSpec(
        name=name,
        version="1",
        description=f"Does what {name} does.",
        entry=f"nowhere.{name}:{name}",
        main=f"nowhere.{name}:main",
        image="data",
        parameters={"properties": {key: {"default": value} for key, value in (defaults or {}).items()}},
        inputs=tuple(Port(name=port, artifact=kind.artifact_type()) for port, kind in inputs.items()),
        outputs=tuple(Port(name=port, artifact=kind.artifact_type()) for port, kind in outputs.items()),
        metrics=tuple(MetricSpec(name=metric, description=f"The {metric}.") for metric in metrics),
        distribution=Distribution(mode="shards" if shards else "single"),
    )


def pipeline() -> PipelineSpec:
    components = (
        component("pictures", {}, {"dataset": Dataset}),
        component("manifest", {"dataset": Dataset}, {"manifest": Manifest, "rejects": Rejects}, ("objects",)),
        component("shard", {"manifest": Manifest}, {"shards": Shards}),
        component("preprocess", {"shards": Shards}, {"records": Records, "rejects": Rejects}),
        component(
            "train",
            {"records": Records},
            {"model": Model, "metrics": Metrics},
            ("loss",),
            {"epochs": 20, "optimizer": {"kind": "adam", "beta": 0.9}, "note": ""},
        ),
        component(
            "evaluate",
            {"model": Model, "records": Records},
            {"report": Report, "predictions": Predictions, "metrics": Metrics},
            ("accuracy",),
            {"channel": "test"},
        ),
        component("quantize", {"model": Model, "records": Records}, {"model": Model}),
        component("deploy", {"model": Model, "records": Records}, {"endpoint": Endpoint}),
        component("monitor", {"model": Model}, {"metrics": Metrics}),
    )
    gate = (Condition(metric=TaskOutput(task="evaluate", port="accuracy"), comparison=">=", threshold=0.9),)
    training: dict[str, JsonValue] = {"epochs": 3, "optimizer": {"kind": "adam", "beta": 0.9}, "note": HOSTILE}
    return PipelineSpec(
        name="letters",
        description=f"Classifies letters. {HOSTILE}",
        components=components,
        tasks=(
            task("pictures"),
            task("manifest", dataset="pictures.dataset"),
            task("shard", manifest="manifest.manifest"),
            task("preprocess", shards="shard.shards").model_copy(update={"for_each": ForEach(shares=2)}),
            task("train", records="preprocess.records").model_copy(update={"parameters": training}),
            task("evaluate", model="train.model", records="preprocess.records").model_copy(
                update={"parameters": {"channel": "test"}}
            ),
            task("quantize", model="train.model", records="preprocess.records").model_copy(update={"conditions": gate}),
            task("deploy", model="quantize.model", records="preprocess.records"),
            task("monitor", model="train.model").model_copy(update={"after": ("evaluate",)}),
        ),
    )


def task(name: str, **inputs: str) -> Task:
    producers: dict[str, tuple[TaskOutput, ...]] = {}
    for port, source in inputs.items():
        producer, _, output = source.partition(".")
        producers[port] = (TaskOutput(task=producer, port=output),)
    return Task(name=name, component=name, inputs=producers)


def graph(tasks: int) -> PipelineSpec:
    """A pipeline of many tasks, each reading from up to three earlier ones."""
    spread = component("preprocess", {"many": Dataset}, {"dataset": Dataset})
    spread = spread.model_copy(update={"inputs": (spread.inputs[0].model_copy(update={"many": True}),)})
    planned = []
    for index in range(tasks):
        sources = sorted({index // 2, index * 2 // 3, index - 7} & set(range(index)))
        outputs = tuple(TaskOutput(task=f"step_{source:03d}", port="dataset") for source in sources)
        inputs = {"many": outputs} if outputs else {}
        planned.append(Task(name=f"step_{index:03d}", component="preprocess", inputs=inputs))
    return PipelineSpec(name="wide", components=(spread,), tasks=tuple(planned))


def recorded_run(root: Path) -> tuple[PipelineRun, Path]:
    """The record and the folder of the run, with the task folders under `root/tasks`."""
    spec = pipeline()
    run = PipelineRun(
        id="20260504-093000-abc123",
        pipeline=spec,
        state=RunState.FAILED,
        reason=f"task 'quantize' failed: {HOSTILE}",
        started=START,
        ended=START + timedelta(seconds=95),
        millrace="0.1.0",
        revision="0123456789ab+changes",
        python="3.11.2",
        machine={"system": "Linux", "cores": 2, "memory": 8 * 2**30},
        config={"train": {"epochs": 3}, "manifest": {"source": HOSTILE}},
        tasks={
            item.name: TaskRun(
                name=item.name,
                component=item.component,
                component_version="1",
                parameters=item.parameters,
                inputs={port: [str(output) for output in outputs] for port, outputs in item.inputs.items()},
            )
            for item in spec.tasks
        },
    )
    ends = {
        "pictures": (TaskState.CACHED, 0, 0),
        "manifest": (TaskState.SUCCEEDED, 0, 4),
        "shard": (TaskState.CACHED, 4, 4),
        "preprocess": (TaskState.SUCCEEDED, 4, 16),
        "train": (TaskState.SUCCEEDED, 16, 81),
        "evaluate": (TaskState.SUCCEEDED, 81, 87),
        "quantize": (TaskState.FAILED, 87, 92),
        "deploy": (TaskState.SKIPPED, None, 92),
        "monitor": (TaskState.CANCELLED, 87, 92),
    }
    for name, (state, start, end) in ends.items():
        _end(run.tasks[name], root, state, start, end)
    run.tasks["deploy"].reason = "quantize was failed"
    _fail(run.tasks["quantize"])
    _publish(run)
    folder = root / "runs" / run.id
    folder.mkdir(parents=True)
    run.write(folder)
    return run, folder


def _end(record: TaskRun, root: Path, state: TaskState, start: int | None, end: int) -> None:
    record.state = state
    record.started = None if start is None else START + timedelta(seconds=start)
    record.ended = START + timedelta(seconds=end)
    if start is None:
        return
    count, key = 2 if record.name == "preprocess" else 1, ""
    for index in range(count):
        key = hashlib.sha256(f"{record.name}{index}".encode()).hexdigest()
        folder = root / "tasks" / record.name / key[:20]
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("".join(f"line {line}\n" for line in range(30)))
        share = ShareRun(index=index, key=key, directory=folder, state=state, attempts=1, peak_memory=300 * 2**20)
        share.seconds = (end - start) / (index + 1)
        record.shares.append(share)
    if state.done:
        record.directory = root / "tasks" / record.name / ("merged" if count > 1 else key[:20])


def _fail(record: TaskRun) -> None:
    record.reason = HOSTILE
    share = record.shares[0]
    share.failure, share.attempts = Failure(kind="error", message=HOSTILE), 3
    if share.directory is not None:
        lines = [*(f"line {line}" for line in range(30)), f"ValueError: {HOSTILE}"]
        (share.directory / "log.txt").write_text("\n".join(lines) + "\n")


def add_output(record: TaskRun, port: str, metadata: dict[str, JsonValue] | None = None, suffix: str = "") -> None:
    """Put what was written under an output's path on the record."""
    path = record.directory / "outputs" / f"{port}{suffix}" if record.directory else Path()
    content, size = digest(path)
    made = MadeArtifact(path=f"outputs/{port}{suffix}", digest=content, bytes=size, metadata=metadata or {})
    record.outputs[port] = made


def _publish(run: PipelineRun) -> None:
    def place(name: str, port: str) -> Path:
        folder = (run.tasks[name].directory or Path()) / "outputs" / port
        folder.mkdir(parents=True)
        return folder

    simple = [("pictures", "dataset"), ("shard", "shards"), ("preprocess", "records"), ("train", "model")]
    for name, port in simple:
        (place(name, port) / "data").write_text(f"{name} {port}")
        add_output(run.tasks[name], port, {"note": HOSTILE})
    _write_index(place("manifest", "manifest"))
    place("manifest", "rejects")
    write_rejects(place("preprocess", "rejects"), 3)
    _write_charts(place("train", "metrics"), {"loss": 0.25}, _training_charts())
    _write_charts(place("evaluate", "metrics"), {"accuracy": 0.975}, _evaluation_charts())
    (place("evaluate", "report").with_suffix(".html")).write_text("<!doctype html><title>evaluation</title>")
    _write_answers(place("evaluate", "predictions"))
    run.tasks["train"].metrics = {"loss": 0.25, "seconds_a_step": 0.00123}
    run.tasks["evaluate"].metrics = {"accuracy": 0.975}
    run.tasks["manifest"].metrics = {"objects": 12}
    add_output(run.tasks["manifest"], "manifest", {"objects": {"train": 8, "test": 4}, "classes": 2})
    for name, port in [
        ("manifest", "rejects"),
        ("preprocess", "rejects"),
        ("train", "metrics"),
        ("evaluate", "metrics"),
        ("evaluate", "predictions"),
    ]:
        add_output(run.tasks[name], port)
    add_output(run.tasks["evaluate"], "report", suffix=".html")


def _write_index(folder: Path) -> None:
    rows = [
        {
            "uri": f"s3://bucket/{label}/{index}.png",
            "class_label": label,
            "label": number,
            "channel": channel,
            "size": 9,
        }
        for number, label in enumerate(("a", HOSTILE))
        for channel, count in (("train", 4 + number * 2), ("test", 2))
        for index in range(count)
    ]
    pl.DataFrame(rows).write_parquet(folder / "index.parquet")


def _write_answers(folder: Path) -> None:
    """Two records of each class; the second of the first class is taken for the other."""
    probabilities = np.array([[0.9, 0.1], [0.25, 0.75], [0.125, 0.875], [0.0, 1.0]], np.float32)
    uris = [f"s3://bucket/{label}/{index}.png".encode() for label in ("a", HOSTILE) for index in range(2)]
    with AnswerWriter(folder, ("a", HOSTILE)) as writer:
        writer.add(uris, np.array([0, 0, 1, 1]), probabilities)


def write_rejects(folder: Path, count: int) -> None:
    """Tables of two workers, the first with `count` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for worker, rows in enumerate((count, 1)):
        table = {
            "uri": [f"s3://bucket/{worker}-{index}{HOSTILE}" for index in range(rows)],
            "reason": ["truncated" if index % 2 == 0 else "too large" for index in range(rows)],
            "detail": [f"byte {index} {HOSTILE}" for index in range(rows)],
        }
        pl.DataFrame(table).write_parquet(folder / f"rejects-{worker}.parquet")


def _write_charts(folder: Path, metrics: dict[str, float], charts: tuple[Chart, ...]) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "charts.json").write_bytes(charts_adapter.dump_json(charts))


def _training_charts() -> tuple[Chart, ...]:
    epochs = (1.0, 2.0, 3.0)
    curves = (Curve(name="train", x=epochs, y=(1.2, 0.5, 0.2)), Curve(name="validation", x=epochs, y=(1.1, 0.6, 0.25)))
    lines = Lines(name="loss", title="Loss", x_label="epoch", y_label="loss", curves=curves, marked_x=3)
    trials = Curve(name="trials", x=(1.0, 2.0, 3.0, 4.0), y=(0.7, 0.8, 0.95, 0.9))
    scatter = Scatter(name="trials", title="Trials", x_label="trial", y_label="accuracy", curves=(trials,))
    answer = ("card_payment_wrong_exchange_rate", "exchange_rate", "0.9312", "0.0210")
    rows = (("why was i charged another exchange rate than the one your page showed " * 3, *answer), ("hello", *answer))
    columns = ("text", "true", "predicted", "confidence", "true class")
    return lines, scatter, Table(name="sample_predictions", title="Sample predictions", columns=columns, rows=rows)


def _evaluation_charts() -> tuple[Chart, ...]:
    matrix = ConfusionMatrix(
        name="confusion", title=f"Confusion {HOSTILE}", labels=("a", HOSTILE), counts=((9, 1), (0, 5))
    )
    return (matrix,)
