"""Read pictures, ask the model, write its answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millrace.components.predict.spec import PredictInputs, PredictOutputs, PredictParameters
from millrace.errors import DataError, UnsupportedError
from millrace.runtime.answers import predictions_body
from millrace.runtime.context import Context, Result
from millrace.runtime.images import ImageRejected, decode_image
from millrace.runtime.limits import Limits
from millrace.runtime.models import Predictor, load_predictor
from millrace.runtime.schemas import ImageRecords
from millrace.runtime.storage import Listed, list_objects, process_many

__all__ = ["main"]

_SHOWN = 5


class _Picture(NamedTuple):
    key: str
    pixels: NDArray[np.uint8]


def main(parameters: PredictParameters, inputs: PredictInputs, outputs: PredictOutputs, context: Context) -> Result:
    """Ask about this worker's share of the objects: those at its index in the order of their keys, and so on.

    Raises:
        DataError: When there is nothing to ask about, or too much of it is no picture.
        UnsupportedError: When the model is not one of pictures.
    """
    objects = sorted(list_objects(str(inputs.dataset.path)), key=lambda item: item.key)
    if not objects:
        raise DataError(f"{inputs.dataset.path} holds no objects to ask about")
    mine = objects[context.share.index :: context.share.count]
    predictor = load_predictor(inputs.model.path, threads=context.cores)
    schema = predictor.card.records
    if not isinstance(schema, ImageRecords):
        raise UnsupportedError(
            f"predict asks about pictures, the model is one of {schema.things}: deploy it and ask the endpoint, which "
            "takes them as CSV"
        )
    rejects: list[tuple[str, ImageRejected]] = []
    answers = outputs.predictions.path
    done = 0
    for batch in _batches(_pictures(mine, schema, parameters, rejects), parameters.max_batch_size):
        _answer(predictor, batch, answers)
        done += len(batch)
        context.progress(done + len(rejects), len(mine), "images")
    _note(rejects, len(mine), parameters, answers, context)
    context.log.info("%d answers, %d objects that are no pictures", done, len(rejects))
    return Result()


def _pictures(
    objects: list[Listed], schema: ImageRecords, parameters: PredictParameters, rejects: list[tuple[str, ImageRejected]]
) -> Iterator[_Picture]:
    """The objects as the model needs them; those that are no pictures are put aside."""
    limits = Limits(max_megapixels=parameters.max_megapixels)

    def decode(data: bytes) -> NDArray[np.uint8]:
        return decode_image(data, schema, max_pixels=limits.max_pixels)

    for item, (_, result) in zip(objects, process_many(objects, decode), strict=True):
        if isinstance(result, ImageRejected):
            rejects.append((item.key, result))
        elif isinstance(result, Exception):
            raise result
        else:
            yield _Picture(item.key, result)


def _batches(pictures: Iterable[_Picture], size: int) -> Iterator[list[_Picture]]:
    batch: list[_Picture] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _answer(predictor: Predictor, batch: list[_Picture], answers: Path) -> None:
    probabilities = predictor.predict(np.stack([picture.pixels for picture in batch]))
    for index, picture in enumerate(batch):
        file = answers / f"{picture.key}.out"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(predictions_body(probabilities[index : index + 1], predictor.card.records.classes))


def _note(
    rejects: list[tuple[str, ImageRejected]], total: int, parameters: PredictParameters, answers: Path, context: Context
) -> None:
    """Write down what could not be read.

    Raises:
        DataError: When it is more than may be.
    """
    for key, error in rejects:
        context.log.warning("rejected %s: %s", key, error)
    allowed = ceil(parameters.max_error_rate * total - 1e-9)  # 0.1 * 30 is a little more than 3
    if len(rejects) > allowed:
        first = "\n".join(f"  {key}: {error}" for key, error in rejects[:_SHOWN])
        raise DataError(
            f"{len(rejects)} of {total} objects are no readable pictures; max_error_rate={parameters.max_error_rate:g} "
            f"allows {allowed} of them. Remove or mend them, or set it higher. The log names each; the first:\n{first}"
        )
    if rejects:
        lines = [json.dumps({"key": key, "reason": error.reason, "detail": str(error)}) for key, error in rejects]
        file = answers / f"rejected-{context.share.index:05d}-of-{context.share.count:05d}.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
