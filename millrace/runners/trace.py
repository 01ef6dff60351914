"""One object of a run, from where it was listed to the answers about it; and a metric, with the records it is over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue

from millrace.errors import DataError, UserError, did_you_mean
from millrace.runners.answers import Measured, answer_about, measured
from millrace.runners.lineage import parameters_set, upstream
from millrace.runners.record import PipelineRun, TaskRun
from millrace.runners.report_data import links, outputs_of
from millrace.specs import Artifact, Frozen, Manifest, Model, Predictions, Records, Rejects, Report, Shards

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Made", "Trace", "trace", "uri_of_record"]

_CANDIDATES = 10
_RECORD = re.compile(r"(?:.*/)?(?P<file>[^/]+\.tfrecord)#(?P<record>\d+)")
_SHOWN = ("uri", "key", "row", "class_label", "label", "channel", "group", "size", "etag", "version", "content")


class Made(Frozen):
    """What a task did with the object."""

    task: str
    keys: tuple[str, ...]
    """Of the task, one a worker: SHA-256 of all that decides on its outputs, code included."""
    facts: dict[str, JsonValue]
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Those that are not as they are by themselves."""


class Trace(Frozen):
    """The way of one object, or what a metric was computed from."""

    run: str
    revision: str
    about: str
    """The object's URI, or `task.metric`."""
    object: dict[str, JsonValue]
    """Its row of the lineage table; empty for a metric, and for an object that was set aside."""
    steps: tuple[Made, ...]
    """In the order of the pipeline."""
    measured: Measured | None = None
    """For a metric, the records that it is over, where their answers were written down."""


def trace(run: PipelineRun, what: str, *, mistakes: int | None = None) -> Trace:
    """Follow an object, a record or a metric.

    Args:
        run: The record.
        what: A URI, a key or a unique part of one; `FILE.tfrecord#N`, a record counted from 0; `KEY.out`, a
            prediction; or `TASK.METRIC`.
        mistakes: Most wrong answers to tell of those that a metric is over; None for all.

    Raises:
        UserError: When there is none, or there are several; or when a package is missing.
    """
    task, _, metric = what.partition(".")
    if task in run.tasks and metric in run.tasks[task].metrics:
        return _of_metric(run, task, metric, mistakes)
    try:
        import polars as pl
    except ImportError:
        raise UserError("to look into artifacts needs the package polars: pip install -e '.[data]'") from None
    try:
        return _of_object(run, what)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"an artifact of run {run.id} can't be read: {type(error).__name__}: {error}") from error


def _of_metric(run: PipelineRun, name: str, metric: str, mistakes: int | None) -> Trace:
    task = run.tasks[name]
    *before, _ = upstream(run, name)
    steps = [_made(run, one, _artifacts(run, one)) for one in before]
    return Trace(
        run=run.id,
        revision=run.revision,
        about=f"{name}.{metric}",
        object={},
        steps=(*steps, _made(run, task, {metric: task.metrics[metric]})),
        measured=measured(run, task, metric, mistakes),
    )


def _artifacts(run: PipelineRun, task: TaskRun) -> dict[str, JsonValue]:
    """Where what a task made is, and its digest: what can stand between an object and an answer."""
    return {
        link.port: {"path": str(_path(task, link.port)), "sha256": link.made.digest}
        for link in links(run)
        if link.task == task.name
    }


def _of_object(run: PipelineRun, what: str) -> Trace:
    wanted = what
    if match := _RECORD.fullmatch(what):
        wanted = _uri_of_record(run, match["file"], int(match["record"]))
    row, listed = _find(run, wanted)
    steps: list[Made] = []
    if listed is not None:
        steps += [_made(run, task, _artifacts(run, task)) for task in upstream(run, listed.name)]
        steps += _in_shards(run, row)
        answers = list(_answers(run, row))
        steps += answers
        steps += _before(run, answers, {step.task for step in steps})
    steps += [_made(run, task, {"rejected": told}) for task, told in _rejections(run, str(row["uri"]))]
    order = run.pipeline.order()
    steps.sort(key=lambda step: order.index(step.task))
    shown = {name: row[name] for name in _SHOWN if row.get(name) is not None} if listed is not None else {}
    return Trace(run=run.id, revision=run.revision, about=str(row["uri"]), object=shown, steps=tuple(_joined(steps)))


def _before(run: PipelineRun, answers: Sequence[Made], told: Set[str]) -> Iterator[Made]:
    """The tasks that answers depend on and that are not told yet: what made the models, for one."""
    wanted = {task.name: task for answer in answers for task in upstream(run, answer.task)}
    return (_made(run, task, _artifacts(run, task)) for name, task in wanted.items() if name not in told)


def _joined(steps: Sequence[Made]) -> Iterator[Made]:
    """Steps in a row of one task as one, where they don't tell different things under one name."""
    last: Made | None = None
    for step in steps:
        if last and last.task == step.task and all(last.facts.get(k, v) == v for k, v in step.facts.items()):
            last = last.model_copy(update={"facts": last.facts | step.facts})
            continue
        if last:
            yield last
        last = step
    if last:
        yield last


def _find(run: PipelineRun, what: str) -> tuple[dict[str, Any], TaskRun | None]:
    """The object's row of the lineage table, and the task that made that; None for an object that was set aside."""
    import polars as pl

    tables = [(task, _path(task, port) / "index.parquet") for task, port in outputs_of(run, Manifest)]
    if not tables:
        raise UserError(f"run {run.id} has no manifest: only metrics can be followed, TASK.METRIC{_near(run, what)}")
    texts = (what, what.removesuffix(".out"))
    exact = pl.any_horizontal(pl.col("uri", "key").is_in(texts))
    part = pl.col("uri").str.contains(texts[1], literal=True)
    for wanted in (exact, part):
        found: list[tuple[dict[str, Any], TaskRun | None]] = [
            (row, task)
            for task, file in tables
            for row in pl.scan_parquet(file, glob=False).filter(wanted).head(_CANDIDATES + 1).collect().to_dicts()
        ]
        found = found or [(row, None) for row in _set_aside(run, texts, exact=wanted is exact)]
        if len(found) == 1:
            return found[0]
        if found:
            more = "" if len(found) <= _CANDIDATES else "\n  ..."
            told = "".join(f"\n  {row['uri']}" for row, _ in found[:_CANDIDATES])
            raise UserError(f"{what!r} is in the names of several objects of run {run.id}; which one?{told}{more}")
    raise UserError(
        f"run {run.id} has no object with {what!r} in its name, nor a metric TASK.METRIC or a record FILE.tfrecord#N "
        f"of that name{_near(run, what)}"
    )


def _near(run: PipelineRun, what: str) -> str:
    """The metrics of a task that are named like one that it has not."""
    task, point, metric = what.partition(".")
    if not point or task not in run.tasks or not run.tasks[task].metrics:
        return ""
    return f"; metrics of {task}: {did_you_mean(metric, run.tasks[task].metrics)}"


def _set_aside(run: PipelineRun, texts: tuple[str, ...], *, exact: bool) -> list[dict[str, Any]]:
    """Objects that are in no lineage table, but in one of rejects."""
    import polars as pl

    uri = pl.col("uri")
    wanted = uri.is_in(texts) if exact else uri.str.contains(texts[-1], literal=True)
    found = (table.filter(wanted).head(_CANDIDATES + 1).collect()["uri"] for _, _, table in _reject_tables(run))
    return [{"uri": one} for one in dict.fromkeys(uri for part in found for uri in part)]


def _reject_tables(run: PipelineRun) -> Iterator[tuple[TaskRun, Path, pl.LazyFrame]]:
    import polars as pl

    for task, port in outputs_of(run, Rejects):
        for file in sorted(_path(task, port).rglob("*.parquet")):
            yield task, file, pl.scan_parquet(file, glob=False).select("uri", "reason", "detail")


def _rejections(run: PipelineRun, uri: str) -> Iterator[tuple[TaskRun, str]]:
    import polars as pl

    for task, _, table in _reject_tables(run):
        for reason, detail in table.filter(pl.col("uri") == uri).select("reason", "detail").collect().iter_rows():
            yield task, f"{reason}: {detail}"


def _in_shards(run: PipelineRun, row: Mapping[str, Any]) -> Iterator[Made]:
    """The object's shard, its record, and the models that learn from it or are measured by it."""
    import polars as pl

    uri, channel = str(row["uri"]), row.get("channel")
    for task, port in outputs_of(run, Shards):
        for file in sorted((_path(task, port) / "shards").glob(f"{channel}-*.parquet")):
            uris = pl.scan_parquet(file, glob=False).select("uri").with_row_index("at")
            place = uris.filter(pl.col("uri") == uri).collect()
            if place.height:
                at = int(place["at"][0])
                yield _made(run, task, {"shard": file.name, "position": at})
                before = uris.head(at).select("uri").collect()["uri"]
                yield from _records(run, file.stem, uri, before)
    if channel == "train":
        for task, _ in outputs_of(run, Model):
            if any(_is(run, source, Records) for source in _sources(task)) and task.metrics:
                yield _made(run, task, {**_artifacts(run, task), **task.metrics})


def _records(run: PipelineRun, name: str, uri: str, before: pl.Series) -> Iterator[Made]:
    """The object's record in the record file of its shard: objects before it, less those that were rejected."""
    import polars as pl

    for task, port in outputs_of(run, Records):
        file = _path(task, port) / f"{name}.tfrecord"
        if not file.is_file():
            continue
        tables = [
            table
            for one, path, table in _reject_tables(run)
            if one is task and path.stem.removeprefix("rejects-") == name
        ]
        rejected = pl.concat([pl.Series("uri", [], pl.String), *(table.collect()["uri"] for table in tables)])
        if (rejected == uri).any():
            continue
        at = len(before) - int(before.is_in(rejected.implode()).sum())
        found = uri_of_record(file, at)
        told: dict[str, JsonValue] = {"records": file.name, "record": at}
        yield _made(run, task, told if found == uri else {"records": file.name, "record": f"not at {at}, as it should"})


def _uri_of_record(run: PipelineRun, name: str, number: int) -> str:
    for task, port in outputs_of(run, Records):
        file = _path(task, port) / name
        if file.is_file():
            found = uri_of_record(file, number)
            if found is None:
                raise UserError(f"{name} has no record {number}: it has {_count(file)}, counted from 0")
            return found
    raise UserError(f"run {run.id} has no record file {name}")


def uri_of_record(file: Path, number: int) -> str | None:
    """The URI in a record; None when the file has fewer."""
    from millrace.runtime.records import read_records, record_uri

    record = next(read_records(file, number), None)
    return None if record is None else record_uri(record)


def _count(file: Path) -> int:
    from millrace.runtime.records import read_records

    return sum(1 for _ in read_records(file))


def _answers(run: PipelineRun, row: Mapping[str, Any]) -> Iterator[Made]:
    """What models said about the object, where tasks have written it down."""
    for task, port in outputs_of(run, Predictions):
        for name in (row.get("dataset_path"), row.get("key")):
            file = _path(task, port) / f"{name}.out"
            if name and file.is_file():
                yield _made(run, task, {"answer": json.loads(file.read_bytes())})
                break
        if answer := answer_about(task, port, str(row["uri"])):
            yield _made(run, task, answer)
    for task, port in outputs_of(run, Report):
        channel = task.parameters.get("channel")
        if channel is not None and channel == row.get("channel"):
            page = _path(task, port)
            named = page.is_file() and str(row["uri"]).encode() in page.read_bytes()
            yield _made(
                run, task, {**({"shown as a mistake in": str(page)} if named else {}), **_main_metrics(run, task)}
            )


def _main_metrics(run: PipelineRun, task: TaskRun) -> dict[str, JsonValue]:
    declared = run.pipeline.component_of(run.pipeline.task(task.name)).metrics
    return {metric.name: task.metrics[metric.name] for metric in declared if metric.name in task.metrics}


def _made(run: PipelineRun, task: TaskRun, facts: dict[str, JsonValue]) -> Made:
    keys = tuple(share.key for share in task.shares if share.key)
    return Made(task=task.name, keys=keys, facts=facts, parameters=parameters_set(run, task))


def _sources(task: TaskRun) -> list[str]:
    return [source for given in task.inputs.values() for source in given]


def _is(run: PipelineRun, source: str, kind: type[Artifact]) -> bool:
    return any(f"{task.name}.{port}" == source for task, port in outputs_of(run, kind))


def _path(task: TaskRun, port: str) -> Path:
    return task.output_path(port)
