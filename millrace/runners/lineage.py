"""Where what a run made came from: its artifacts, tasks, code and parameters, and whether its channels leak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from millrace.errors import ConfigError, DataError
from millrace.runners.record import PipelineRun, TaskRun
from millrace.runners.report_data import leaks_in, links, outputs_of
from millrace.runtime.earlier import full_id
from millrace.specs import Frozen, Manifest
from millrace.specs.usual import usual_values

__all__ = ["ROOT", "ArtifactLineage", "RunLineage", "of_run", "open_run", "parameters_set", "run_ids", "upstream"]

ROOT = Path(".millrace")
"""Where the local runner keeps its runs, unless `runner.root` says something else."""


class ArtifactLineage(Frozen):
    """An artifact of the chain from the source objects to the endpoint."""

    task: str
    output: str
    kind: str
    made_from: tuple[str, ...]
    """`task.output` of the artifacts before it."""
    keys: tuple[str, ...]
    """Of the task, one a worker: SHA-256 of all that decides on its outputs, code included."""
    parameters: dict[str, JsonValue]
    """Of the task, those that are not as they are by themselves."""
    path: str
    sha256: str
    """Over the names and contents of its files."""
    bytes: int


class RunLineage(Frozen):
    """The chain of a run."""

    run: str
    pipeline: str
    state: str
    started: str
    revision: str
    """Git revision of the folder in which the run was started."""
    millrace: str
    artifacts: tuple[ArtifactLineage, ...]
    channels: dict[str, int]
    """Objects by channel."""
    leaks: dict[str, JsonValue] | None
    """What the check found; None without a manifest that can be read."""
    verdict: str


def run_ids(root: Path) -> list[str]:
    """Ids of the runs in a runner's folder, the newest last."""
    return sorted(path.parent.name for path in (root / "runs").glob("*/run.json"))  # ids begin with the time


def open_run(root: Path, run: str) -> PipelineRun:
    """The record of a run: its id, a unique beginning of it, or `latest`.

    Raises:
        ConfigError: When there is none, or several begin so.
        DataError: When it can't be read.
    """
    found = full_id(root / "runs", run)
    if found is None:
        known = run_ids(root)
        recent = f"the last ones are {', '.join(known[-3:])}" if known else "there are none"
        raise ConfigError(
            f"run {run!r}: there is no such run in {root / 'runs'}, {recent}; of runs on Kubeflow or SageMaker only "
            "the platform knows the artifacts: look at the run there (millrace status), or run the pipeline here"
        )
    try:
        return PipelineRun.read(root / "runs" / found)
    except (OSError, ValueError) as error:
        raise DataError(f"the record of run {found} can't be read: {error}") from error


def of_run(run: PipelineRun) -> RunLineage:
    """The chain of a run, with a check for leaks."""
    chain = tuple(_artifact(run, link.task, link.port, link.kind, link.sources) for link in links(run))
    channels: dict[str, int] = {}
    checks = [leaks_in(task.output_path(port) / "index.parquet") for task, port in outputs_of(run, Manifest)]
    for task, port in outputs_of(run, Manifest):
        for name, number in _channels(task.output_path(port) / "index.parquet").items():
            channels[name] = channels.get(name, 0) + number
    found = [check for check, _ in checks if check is not None]
    return RunLineage(
        run=run.id,
        pipeline=run.pipeline.name,
        state=run.state.value,
        started=run.started.isoformat(timespec="seconds"),
        revision=run.revision,
        millrace=run.millrace,
        artifacts=chain,
        channels=channels,
        leaks=found[0].model_dump(mode="json") if found else None,
        verdict="; ".join(told for _, told in checks) or "not checked: the run has no manifest",
    )


def parameters_set(run: PipelineRun, task: TaskRun) -> dict[str, JsonValue]:
    """Parameters of a task that are not as they are by themselves."""
    schema = run.pipeline.component_of(run.pipeline.task(task.name)).parameters
    return _changed(task.parameters, usual_values(schema, task.parameters))


def _changed(values: Mapping[str, JsonValue], usual: Mapping[str, Any]) -> dict[str, JsonValue]:
    changed: dict[str, JsonValue] = {}
    for name, value in values.items():
        default = usual.get(name)
        if isinstance(value, dict) and isinstance(default, Mapping):
            inside = _changed(value, default)
            changed |= {name: inside} if inside else {}
        elif value != default:
            changed[name] = value
    return changed


def upstream(run: PipelineRun, task: str) -> list[TaskRun]:
    """The tasks that a task's inputs come from, and it itself, in the order of the pipeline."""
    wanted = {task}
    for name in reversed(run.pipeline.order()):
        if name in wanted and name in run.tasks:
            wanted |= {source.partition(".")[0] for given in run.tasks[name].inputs.values() for source in given}
    return [run.tasks[name] for name in run.pipeline.order() if name in wanted and name in run.tasks]


def _artifact(run: PipelineRun, task: str, output: str, kind: str, sources: Iterable[str]) -> ArtifactLineage:
    done = run.tasks[task]
    made = done.outputs[output]
    return ArtifactLineage(
        task=task,
        output=output,
        kind=kind,
        made_from=tuple(sources),
        keys=tuple(share.key for share in done.shares if share.key),
        parameters=parameters_set(run, done),
        path=str(done.output_path(output)),
        sha256=made.digest,
        bytes=made.bytes,
    )


def _channels(index: Path) -> Mapping[str, int]:
    try:
        import polars as pl
    except ImportError:
        return {}
    try:
        return dict(pl.scan_parquet(index, glob=False).group_by("channel").len().sort("channel").collect().iter_rows())
    except (OSError, pl.exceptions.PolarsError):
        return {}
