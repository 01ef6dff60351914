"""Quantize a model and measure it beside the one given."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from millrace.components.quantize.convert import Scheme, convert
from millrace.components.quantize.spec import QuantizeInputs, QuantizeOutputs, QuantizeParameters
from millrace.errors import ConfigError, DataError, TaskFailedError
from millrace.runtime.context import Context, Result
from millrace.runtime.datasets import damage_explained, decode_records, decoded_dataset, record_dataset, total_records
from millrace.runtime.models import MODEL_FILES, Predictor, check_fits, latency_ms, load_predictor
from millrace.runtime.schemas import (
    CHANNELS,
    VOCABULARY,
    Channel,
    ModelCard,
    TextRecords,
    read_json_model,
    read_records_schema,
)
from millrace.runtime.task import write_atomically
from millrace.specs import Curve, Scatter

__all__ = ["main"]

_BATCH = 64


def main(parameters: QuantizeParameters, inputs: QuantizeInputs, outputs: QuantizeOutputs, context: Context) -> Result:
    """Quantize a model.

    Raises:
        DataError: When the model is no Keras model, or the records do not fit it or a channel has none.
        TaskFailedError: When more accuracy is lost than allowed, or LiteRT can't hold the model.
    """
    source, records = inputs.model.path, inputs.records.path
    card = _check_fit(source, records)
    if isinstance(card.records, TextRecords) and parameters.scheme == "int8":
        raise ConfigError("scheme=int8 measures ranges of numbers, the model is one of texts: use dynamic or float16")
    total = _count(records, parameters.channel, "channel")
    given = load_predictor(source, threads=context.cores)
    model = keras.models.load_model(source / MODEL_FILES["keras"], compile=False)
    calibration = _calibration(records, parameters, context) if parameters.scheme == "int8" else None
    plain = _save(convert(model, "none"), card, "none", context.scratch / "float32")
    small = _save(convert(model, parameters.scheme, calibration), card, parameters.scheme, outputs.model.path)
    context.log.info("%s: %d bytes, %d in float32", parameters.scheme, small.bytes, plain.bytes)
    quantized = load_predictor(outputs.model.path, threads=context.cores)
    if isinstance(card.records, TextRecords):
        shutil.copyfile(source / VOCABULARY, outputs.model.path / VOCABULARY)
    batches = _batches(decoded_dataset(records, parameters.channel), records, parameters.channel)
    score = _compare(given, quantized, batches, total, context)
    _judge(score, parameters)
    float32 = load_predictor(context.scratch / "float32", threads=context.cores)
    return Result(
        metrics={
            "accuracy": score.quantized,
            "float_accuracy": score.given,
            "accuracy_drop": score.given - score.quantized,
            "agreement": score.agreement,
            "size_ratio": small.bytes / plain.bytes,
            "latency_ms": latency_ms(quantized, score.example, parameters.latency_runs),
            "float_latency_ms": latency_ms(float32, score.example, parameters.latency_runs),
        },
        charts=(_chart(plain, small, score),),
        metadata={"model": small.facts()},
    )


@dataclass(frozen=True)
class _Score:
    given: float
    """Accuracy of the given model."""
    quantized: float
    agreement: float
    example: NDArray[Any]
    """One of the records, as the model takes it."""


def _check_fit(model: Path, records: Path) -> ModelCard:
    card = read_json_model(model / "model.json", ModelCard)
    if card.format != "keras":
        raise DataError(
            f"the model is in the format {card.format} (quantization: {card.quantization}), needed: keras; "
            "give the model that train made"
        )
    check_fits("the model", card, read_records_schema(records))
    return card


def _count(records: Path, channel: Channel, parameter: str) -> int:
    if total := total_records(records, channel):
        return total
    others = [name for name in CHANNELS if total_records(records, name)]
    hint = f"set {parameter} to one that has: {', '.join(others)}" if others else "no other channel has any either"
    raise DataError(f"{records}: channel {channel!r} has no records; {hint}")


def _calibration(records: Path, parameters: QuantizeParameters, context: Context) -> NDArray[Any]:
    """Every n-th record of the channel: a listing in the order of classes gives records of all of them."""
    channel = parameters.calibration_channel
    total = _count(records, channel, "calibration_channel")
    wanted = min(parameters.calibration_records, total)
    chosen = record_dataset(records, channel).shard(total // wanted, 0).take(wanted)
    batches = _batches(decode_records(chosen, read_records_schema(records)), records, channel)
    examples = np.concatenate([examples for examples, _ in batches])
    context.log.info("calibrating with %d of the %d %s records", len(examples), total, channel)
    return examples


def _batches(dataset: Any, records: Path, channel: Channel) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    with damage_explained(records, channel):
        yield from dataset.batch(_BATCH).as_numpy_iterator()


def _save(content: bytes, card: ModelCard, scheme: Scheme, folder: Path) -> ModelCard:
    folder.mkdir(exist_ok=True)
    (folder / MODEL_FILES["litert"]).write_bytes(content)
    made = card.model_copy(update={"format": "litert", "bytes": len(content), "quantization": scheme})
    write_atomically(folder / "model.json", made.model_dump_json(indent=2) + "\n")
    return made


def _compare(
    given: Predictor,
    quantized: Predictor,
    batches: Iterator[tuple[NDArray[Any], NDArray[np.int64]]],
    total: int,
    context: Context,
) -> _Score:
    right = quantized_right = same = done = 0
    examples = np.empty(0, np.uint8)
    for examples, labels in batches:
        answers, own = (predictor.predict(examples).argmax(axis=1) for predictor in (quantized, given))
        right += int((own == labels).sum())
        quantized_right += int((answers == labels).sum())
        same += int((answers == own).sum())
        done += len(labels)
        context.progress(done, total, "records")
    return _Score(given=right / done, quantized=quantized_right / done, agreement=same / done, example=examples[0])


def _judge(score: _Score, parameters: QuantizeParameters) -> None:
    drop, allowed = score.given - score.quantized, parameters.maximum_drop
    if allowed is None or drop <= allowed + 1e-9:  # 0.97 - 0.96 is a little more than 0.01
        return
    advice = {
        "int8": f"try more calibration_records (now {parameters.calibration_records}), or scheme=dynamic or float16",
        "dynamic": "try scheme=int8 or scheme=float16",
        "float16": "train on inputs of a smaller range, or deploy the given model",
    }
    raise TaskFailedError(
        f"quantizing with scheme={parameters.scheme} costs too much accuracy on the {parameters.channel} channel: "
        f"{score.given:.4f} before, {score.quantized:.4f} after, a drop of {drop:.4f} with maximum_drop={allowed:g}; "
        f"{advice[parameters.scheme]}"
    )


def _chart(plain: ModelCard, small: ModelCard, score: _Score) -> Scatter:
    return Scatter(
        name="size_and_accuracy",
        title="Size and accuracy",
        x_label="model file (KiB)",
        y_label="accuracy",
        curves=(
            Curve(name="float32", x=(plain.bytes / 1024,), y=(score.given,)),
            Curve(name=small.quantization, x=(small.bytes / 1024,), y=(score.quantized,)),
        ),
    )
