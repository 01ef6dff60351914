"""The answers about records that tasks of a run wrote down: of one object, and of those a metric is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import DataError, UserError
from millrace.runners.lineage import upstream
from millrace.runners.record import PipelineRun, TaskRun
from millrace.runners.report_data import outputs_of
from millrace.runtime.answer_tables import Confusion, answer_files, answer_table, confusions
from millrace.specs import Frozen, Manifest, Model, Predictions

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Measured", "Mistake", "WrongAnswers", "answer_about", "measured", "wrong_answers"]

_BY_CLASS = {
    "recall": ("true_label",),
    "precision": ("label",),
    "f1": ("true_label", "label"),
}
"""Columns that tell whether a record counts in the figure of a class."""
_WHICH = {
    "recall": "that are {!r}",
    "precision": "that are taken for {!r}",
    "f1": "that are {!r} or are taken for it",
}
_OF_THE_MODEL = ("latency_ms", "size_bytes")
"""Figures that no record's answer changes."""
_OF_ALL = "accuracy"
_PAIRS = 50
_URIS = 3


@dataclass(frozen=True, slots=True)
class Mistake:
    """A record that was taken for another class."""

    uri: str
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""


class Measured(Frozen):
    """The records that a metric is over, and the wrong answers among them."""

    model: str
    """Path of the model that answered."""
    predictions: str
    """Path of its answers."""
    channel: str
    objects: int | None
    """Of the channel in the manifest; None when that can't be told."""
    which: str
    """Which records of the channel the metric is over; empty for all."""
    records: int
    right: int
    wrong: int
    mistakes: tuple[Mistake, ...]
    """The most confident first; all of them unless fewer were asked for."""


@dataclass(frozen=True)
class WrongAnswers:
    """What a report shows of the answers that a task wrote down."""

    task: str
    channel: str
    metric: str
    """One that is over all of them; empty when the task has none that is known to be."""
    records: int = 0
    wrong: int = 0
    pairs: tuple[Confusion, ...] = ()
    problem: str = ""


def answer_about(task: TaskRun, port: str, uri: str) -> dict[str, Any] | None:
    """A record's true and predicted class, their probabilities, and whether that is right; None without an answer."""
    import polars as pl

    folder = task.output_path(port)
    if not answer_files(folder):
        return None
    found = answer_table(folder).filter(pl.col("uri") == uri).head(1)
    rows = found.select(
        pl.col("true_label").alias("true"),
        pl.col("label").alias("predicted"),
        "probability",
        pl.col("probabilities").list.get(pl.col("true_index")).alias("probability_of_true"),
        "right",
    )
    return next(iter(rows.collect().to_dicts()), None)


def measured(run: PipelineRun, task: TaskRun, metric: str, limit: int | None) -> Measured | None:
    """The records that a metric of a task is over; None when the task has written no answers, or it is over none.

    Args:
        run: The record.
        task: Of the run.
        metric: Its name.
        limit: Most mistakes to tell; None for all.

    Raises:
        DataError: When the answers can't be read.
        UserError: When a package is missing.
    """
    ports = [port for owner, port in outputs_of(run, Predictions) if owner is task]
    folders = [task.output_path(port) for port in ports if answer_files(task.output_path(port))]
    if not folders or metric in _OF_THE_MODEL:
        return None
    channel = str(task.parameters.get("channel", ""))
    with _explained(folders[0]):
        import polars as pl

        answers, which = _counted_in(answer_table(folders[0]), metric, channel)
        records, right = answers.select(pl.len(), pl.col("right").sum()).collect().row(0)
        wrong = answers.filter(~pl.col("right")).sort("probability", descending=True, maintain_order=True)
        shown = wrong if limit is None else wrong.head(limit)
        rows = shown.select("uri", true="true_label", predicted="label", probability="probability").collect()
    return Measured(
        model=", ".join(str(maker.output_path(port)) for maker, port in _models(run, task)),
        predictions=str(folders[0]),
        channel=channel,
        objects=_objects(run, task, channel),
        which=which,
        records=records,
        right=right,
        wrong=records - right,
        mistakes=tuple(Mistake(*row) for row in rows.iter_rows()),
    )


def wrong_answers(run: PipelineRun) -> list[WrongAnswers]:
    """What the models of a run took for what, with the most confident mistakes; for each table of answers."""
    return [
        _wrong(task, task.output_path(port))
        for task, port in outputs_of(run, Predictions)
        if answer_files(task.output_path(port))
    ]


def _wrong(task: TaskRun, folder: Path) -> WrongAnswers:
    channel = str(task.parameters.get("channel", ""))
    told = WrongAnswers(task.name, channel, _OF_ALL if _OF_ALL in task.metrics else "")
    try:
        with _explained(folder):
            import polars as pl

            answers = answer_table(folder)
            records, right = answers.select(pl.len(), pl.col("right").sum()).collect().row(0)
            pairs = confusions(answers, pairs=_PAIRS, uris=_URIS)
    except UserError as error:
        return replace(told, problem=str(error))
    return replace(told, records=records, wrong=records - right, pairs=tuple(pairs))


def _models(run: PipelineRun, task: TaskRun) -> list[tuple[TaskRun, str]]:
    sources = task.inputs.get("model", [])
    return [(maker, port) for maker, port in outputs_of(run, Model) if f"{maker.name}.{port}" in sources]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        import polars as pl
    except ImportError:
        raise UserError("to look into answers needs the package polars: pip install -e '.[data]'") from None
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the answers in {folder} can't be read: {type(error).__name__}: {error}") from error


def _counted_in(answers: pl.LazyFrame, metric: str, channel: str) -> tuple[pl.LazyFrame, str]:
    """The answers that a metric is over, and which they are; a figure of a class, `recall.CLASS`, is not over all."""
    import polars as pl

    figure, point, name = metric.partition(".")
    if point and figure in _BY_CLASS:
        return answers.filter(pl.any_horizontal(pl.col(*_BY_CLASS[figure]) == name)), _WHICH[figure].format(name)
    both = metric == "overfit_gap" and channel != "train"
    return answers, "and those of the channel train, whose answers are not kept" if both else ""


def _objects(run: PipelineRun, task: TaskRun, channel: str) -> int | None:
    before = upstream(run, task.name)
    made = [owner.outputs[port] for owner, port in outputs_of(run, Manifest) if owner in before]
    counts = [one.metadata.get("objects") for one in made]
    numbers = [value.get(channel) for value in counts if isinstance(value, Mapping)]
    found = [number for number in numbers if isinstance(number, int)]
    return sum(found) if found else None
