"""Ask the models about every record of a channel, and report what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from millrace.components.evaluate.answers import Answers, answer
from millrace.components.evaluate.comparison import Compared, simplest
from millrace.components.evaluate.figures import charts, figures, metrics
from millrace.components.evaluate.report import CONFUSIONS, URIS, Findings, write_report
from millrace.components.evaluate.spec import EvaluateInputs, EvaluateOutputs, EvaluateParameters
from millrace.errors import DataError
from millrace.runtime.answer_tables import AnswerWriter, answer_table, confusions
from millrace.runtime.context import Context, Result
from millrace.runtime.datasets import total_records
from millrace.runtime.models import Predictor, check_fits, latency_ms, load_predictor
from millrace.runtime.schemas import (
    CHANNELS,
    ImageRecords,
    ModelCard,
    RecordsSchema,
    TextRecords,
    read_json_model,
    read_records_schema,
)
from millrace.runtime.texts import load_vocabulary

__all__ = ["main"]


def main(parameters: EvaluateParameters, inputs: EvaluateInputs, outputs: EvaluateOutputs, context: Context) -> Result:
    """Measure the model, compare it with the candidates and write the page.

    Raises:
        DataError: When the channel has no records, or a model does not fit the records.
    """
    records = inputs.records.path
    schema = read_records_schema(records)
    folders = {"model": inputs.model.path}
    folders |= {f"candidate {index}": given.path for index, given in enumerate(inputs.candidates, start=1)}
    for title, folder in folders.items():
        card = read_json_model(folder / "model.json", ModelCard)
        check_fits(title, card, schema)
        _warn_of_skew(title, card, schema, context)
    progress = _progress(parameters, records, len(folders), context)

    predictor = load_predictor(inputs.model.path, threads=context.cores)
    with AnswerWriter(outputs.predictions.path, schema.classes) as writer:
        answers = answer(
            predictor,
            records,
            parameters.channel,
            batch_size=parameters.batch_size,
            mistakes=parameters.mistakes,
            keep=writer.add,
            progress=progress,
        )
    trained = _train_accuracy(parameters, predictor, records, answers, progress)
    latency = latency_ms(predictor, answers.first, parameters.latency_runs)
    models = [Compared("model", predictor.card, answers.accuracy, latency)]
    for title, folder in list(folders.items())[1:]:
        models.append(_compared(title, folder, records, parameters, context, progress))

    found = figures(answers, parameters.top_k, parameters.calibration_bins)
    named = metrics(found, schema.classes) | {
        "overfit_gap": 1.0 if trained is None else trained - found.accuracy,
        "latency_ms": latency,
        "size_bytes": float(predictor.card.bytes),
    }
    drawn = charts(found, answers, schema.classes)
    chosen = simplest(models, parameters.tolerance)
    context.log.info("simplest of %d within %g: %s", len(models), parameters.tolerance, models[chosen].title)
    findings = Findings(
        parameters=parameters,
        card=predictor.card,
        figures=found,
        metrics=named,
        undefined=frozenset(["roc_auc"] * bool(np.isnan(found.roc_auc)) + ["overfit_gap"] * (trained is None)),
        charts=drawn,
        mistakes=answers.mistakes,
        confusions=confusions(answer_table(outputs.predictions.path), pairs=CONFUSIONS, uris=URIS),
        vocabulary=load_vocabulary(records, schema) if isinstance(schema, TextRecords) else (),
        models=tuple(models),
        chosen=chosen,
    )
    write_report(outputs.report.path, findings)
    return Result(metrics=named, charts=drawn)


def _progress(parameters: EvaluateParameters, records: Path, models: int, context: Context) -> Callable[[int], None]:
    """What tells the context of each batch.

    Raises:
        DataError: When the channel has no records.
    """
    totals = {channel: total_records(records, channel) for channel in CHANNELS}
    if not totals[parameters.channel]:
        there = ", ".join(f"{channel} {total:,}" for channel, total in totals.items() if total) or "none"
        raise DataError(
            f"channel {parameters.channel!r} has no records (records there are: {there}): "
            f"choose another channel, or make records for it"
        )
    total = totals[parameters.channel] * models + (totals["train"] if parameters.channel != "train" else 0)
    done = 0

    def progress(records: int) -> None:
        nonlocal done
        done += records
        context.progress(done, total, "records")

    return progress


def _train_accuracy(
    parameters: EvaluateParameters,
    predictor: Predictor,
    records: Path,
    answers: Answers,
    progress: Callable[[int], None],
) -> float | None:
    """Accuracy on the train channel; None when it has no records."""
    if parameters.channel == "train":
        return answers.accuracy
    if not total_records(records, "train"):
        return None
    return answer(predictor, records, "train", batch_size=parameters.batch_size, progress=progress).accuracy


def _compared(
    title: str,
    folder: Path,
    records: Path,
    parameters: EvaluateParameters,
    context: Context,
    progress: Callable[[int], None],
) -> Compared:
    predictor = load_predictor(folder, threads=context.cores)
    answers = answer(predictor, records, parameters.channel, batch_size=parameters.batch_size, progress=progress)
    latency = latency_ms(predictor, answers.first, parameters.latency_runs)
    return Compared(title, predictor.card, answers.accuracy, latency)


def _warn_of_skew(title: str, card: ModelCard, schema: RecordsSchema, context: Context) -> None:
    model = card.records
    if isinstance(model, TextRecords) and isinstance(schema, TextRecords):
        if (model.lower_case, model.truncation) != (schema.lower_case, schema.truncation):
            context.log.warning(
                "%s was trained on texts tokenized with lower_case=%s, truncation=%s, the records with %s, %s: "
                "figures may differ from those in service",
                title, model.lower_case, model.truncation, schema.lower_case, schema.truncation,
            )  # fmt: skip
    elif isinstance(model, ImageRecords) and isinstance(schema, ImageRecords) and model.resize != schema.resize:
        context.log.warning(
            "%s was trained on images resized by %r, the records were by %r: figures may differ from those in service",
            title,
            model.resize,
            schema.resize,
        )
