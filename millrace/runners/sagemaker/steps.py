"""One step of each type."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.conditions import condition_holds
from millrace.runners.sagemaker.definition import Branch, Step
from millrace.runners.sagemaker.expressions import evaluate
from millrace.runners.sagemaker.place import Ended
from millrace.runners.sagemaker.processing import run_processing
from millrace.runners.sagemaker.record import StepRecord
from millrace.runners.sagemaker.run import Run
from millrace.runners.sagemaker.training import run_training
from millrace.runners.sagemaker.transform import transform
from millrace.runners.sagemaker.tuning import tune

__all__ = ["run_step"]


async def run_step(run: Run, step: Step, entry: StepRecord) -> tuple[Ended, Branch | None]:
    """Run a step to its end.

    Raises:
        TaskFailedError: When a value is not there, or it failed without a job.
    """
    if step.type == "Condition":
        return _decide(run, step, entry)
    entry.job = run.name(step)
    names = {"TrainingJobName": entry.job, "ProcessingJobName": entry.job}
    values = replace(run.values, execution={**run.values.execution, **names})
    arguments = evaluate(step.arguments, values)
    return await _RUNS[step.type](run, step, entry, arguments), None


def _decide(run: Run, step: Step, entry: StepRecord) -> tuple[Ended, Branch]:
    run.started(entry)
    holds = True
    for condition in step.arguments.get("Conditions", []):  # all are evaluated: any may fail
        holds = condition_holds(condition, run.values) and holds
    entry.outputs = {"Outcome": str(holds)}
    return Ended("Completed", "", {"Outcome": str(holds)}), "IfSteps" if holds else "ElseSteps"


async def _fail(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    run.started(entry)
    message = str(arguments.get("ErrorMessage", ""))
    return Ended("Failed", message, {"ErrorMessage": message})


async def _processing(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    async with run.slots:
        hosts = int(arguments["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
        run.started(entry, hosts)
        ended = await asyncio.to_thread(run_processing, run.place, entry.job, arguments)
    _note(run, step, entry, ended)
    if ended.state == "Completed":
        outputs = ended.properties.get("ProcessingOutputConfig", {}).get("Outputs", {})
        entry.outputs = {key: output["S3Output"]["S3Uri"] for key, output in outputs.items() if output.get("S3Output")}
        for output, path in step.property_files.values():
            if output in entry.outputs:
                entry.metrics.update(await asyncio.to_thread(_numbers, run, f"{entry.outputs[output]}/{path}"))
        await _keep(run, step, entry)
    return ended


def _numbers(run: Run, uri: str) -> dict[str, float]:
    """Numbers on the first level of a property file."""
    with contextlib.suppress(FileNotFoundError, ValueError, TaskFailedError):
        content = json.loads(run.read(uri))
        if isinstance(content, dict):
            return {
                str(name): float(value)
                for name, value in content.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    return {}


async def _training(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    resources = arguments["ResourceConfig"]
    groups = resources.get("InstanceGroups") or [resources]
    async with run.slots:
        run.started(entry, sum(int(group.get("InstanceCount", 1)) for group in groups))
        ended = await asyncio.to_thread(
            run_training, run.place, entry.job, arguments, interrupt_after=run.interrupt.get(step.name)
        )
    _note(run, step, entry, ended)
    if ended.state == "Completed":
        entry.outputs = {"model": ended.properties["ModelArtifacts"]["S3ModelArtifacts"]}
        entry.metrics = {
            key: float(metric["Value"]) for key, metric in ended.properties.get("FinalMetricDataList", {}).items()
        }
        await _keep(run, step, entry)
    return ended


def _note(run: Run, step: Step, entry: StepRecord, ended: Ended) -> None:
    entry.logs = list(ended.logs)
    for note in ended.notes:
        told = f"{step.name}: {note}"
        if told not in run.record.notes and not note.startswith("asked for "):  # machines are noted for all at first
            run.record.notes.append(told)


async def _tuning(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    return await tune(run, entry, arguments)


async def _transform(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    container = await asyncio.to_thread(run.hosting.container, str(arguments["ModelName"]))
    async with run.slots:
        run.started(entry, int(arguments["TransformResources"]["InstanceCount"]))
        ended = await asyncio.to_thread(transform, run.place, entry.job, arguments, container)
    _note(run, step, entry, ended)
    entry.outputs = {"output": arguments["TransformOutput"]["S3OutputPath"]}
    await _keep(run, step, entry)
    return ended


async def _keep(run: Run, step: Step, entry: StepRecord) -> None:
    """Copy outputs to the folder of the rehearsal."""
    if run.keeps_outputs:
        await asyncio.to_thread(_copy, run, run.directory / "outputs" / step.name, dict(entry.outputs))


def _copy(run: Run, folder: Path, outputs: Mapping[str, str]) -> None:
    for name, uri in outputs.items():
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        pages = run.place.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        for item in (item for page in pages for item in page.get("Contents", [])):
            rest = item["Key"].removeprefix(key)
            if rest.endswith("/") or (rest and not rest.startswith("/") and not key.endswith("/")):
                continue
            place = (folder / name / (rest.lstrip("/") or Path(key).name)).resolve()
            if place.is_relative_to((folder / name).resolve()):
                place.parent.mkdir(parents=True, exist_ok=True)
                _download(run, bucket, item["Key"], place)


def _download(run: Run, bucket: str, key: str, place: Path) -> None:
    """Copy an object; boto3's own way needs threads, which can't be had while a rehearsal ends."""
    with place.open("wb") as file:
        for piece in run.place.client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
            if run.place.engine.stopped:
                place.unlink()  # half a file would look like a whole one
                raise TaskFailedError("the rehearsal was stopped")
            file.write(piece)


async def _hosted(run: Run, step: Step, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    """Model, RegisterModel, EndpointConfig and Endpoint."""
    run.started(entry)
    makes = {
        "Model": run.hosting.create_model,
        "RegisterModel": run.hosting.register_model,
        "EndpointConfig": run.hosting.create_config,
        "Endpoint": run.hosting.create_endpoint,
    }
    entry.job, properties = await asyncio.to_thread(makes[step.type], entry.job, arguments)
    if step.type == "Endpoint":
        run.record.endpoints[entry.job] = entry.outputs["address"] = run.hosting.address(entry.job)
        entry.logs = run.hosting.logs(entry.job)
    return Ended("Completed", "", properties)


_RUNS: Mapping[str, Callable[[Run, Step, StepRecord, Mapping[str, Any]], Awaitable[Ended]]] = {
    "Processing": _processing,
    "Training": _training,
    "Tuning": _tuning,
    "Fail": _fail,
    "Transform": _transform,
    "Model": _hosted,
    "RegisterModel": _hosted,
    "EndpointConfig": _hosted,
    "Endpoint": _hosted,
}
