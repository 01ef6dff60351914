"""A saved model, of whatever format, as one function from pixels, tokens or features to probabilities.

TensorFlow, Keras and LiteRT are imported inside the functions: each format needs only its own runtime.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.schemas import ModelCard, RecordsSchema, TabularRecords, TextRecords, read_json_model

__all__ = ["MODEL_FILES", "Predictor", "check_fits", "latency_ms", "load_predictor"]

MODEL_FILES = {"keras": "model.keras", "litert": "model.tflite"}
"""The file of a Model artifact that is loaded, by format."""

_BATCH = 256  # bounds the memory of activations, however many records are asked about

_WARM_UP = 5
_Run = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class Predictor:
    """A loaded model. It may be called from several threads; LiteRT models answer one after the other."""

    card: ModelCard
    run: _Run
    """Answers one batch that was checked."""

    def predict(self, examples: NDArray[Any]) -> NDArray[np.float32]:
        """Class probabilities.

        Args:
            examples: [N, *shape] of the shape and type in `card.records`: pixels of 0 to 255 as uint8
                [N, height, width, channels], padded token ids as int32 [N, max_seq_length], or float32 features.

        Returns:
            float32 [N, classes].

        Raises:
            DataError: When the examples are of another shape or type, or hold a token that is none.
        """
        records = self.card.records
        if examples.dtype != records.dtype or examples.shape[1:] != records.shape:
            what, shape = records.things, ", ".join(("N", *map(str, records.shape)))
            given = f"{examples.dtype} {list(examples.shape)}"
            raise DataError(f"the model needs {what} as {records.dtype} [{shape}], given: {given}")
        if isinstance(records, TextRecords) and ((examples < 0) | (examples >= records.vocabulary_size)).any():
            raise DataError(f"tokens are numbers from 0 to {records.vocabulary_size - 1}, given: {_range(examples)}")
        answers = [self.run(examples[start : start + _BATCH]) for start in range(0, len(examples), _BATCH)]
        return np.concatenate(answers) if answers else np.empty((0, len(records.classes)), np.float32)


def load_predictor(model: Path, *, threads: int | None = None) -> Predictor:
    """Load a Model artifact.

    Args:
        model: Its folder.
        threads: Processor threads to answer with; all of the machine when None. TensorFlow
            keeps to the number it was started with.

    Raises:
        DataError: When a file is missing, cut off or corrupt, or does not fit `model.json`.
    """
    card = read_json_model(model / "model.json", ModelCard)
    path = model / MODEL_FILES[card.format]
    _check_size(path, card)
    threads = threads or os.cpu_count() or 1
    run = _keras(path, card, threads) if card.format == "keras" else _litert(path, card, threads)
    return Predictor(card=card, run=run)


def check_fits(title: str, card: ModelCard, schema: RecordsSchema) -> None:
    """Check that a model answers about records of this kind and size, with the records' classes.

    Raises:
        DataError: Saying in what they differ.
    """
    given, needed = card.records, schema
    if given.kind != needed.kind:
        raise DataError(
            f"{title} ({card.name!r}) takes {given.things}, the records hold {needed.things}: "
            f"use records of {given.things}, or train it on these"
        )
    if isinstance(given, TabularRecords) and isinstance(needed, TabularRecords):
        _check_columns(title, card, given, needed)
    if given.shape != needed.shape:
        raise DataError(
            f"{title} ({card.name!r}) takes {given.things} of {given.size}, the records are {needed.size}: "
            f"use records that were made with the model's size ({given.made_with}), or train it on these"
        )
    if isinstance(given, TextRecords) and isinstance(needed, TextRecords):
        _check_vocabulary(title, card, given, needed)
    if given.classes != needed.classes:
        raise DataError(
            f"{title} ({card.name!r}) and the records have different classes: {_difference(given, needed)}: "
            f"use records with the model's classes, or train it on these"
        )


def _check_columns(title: str, card: ModelCard, given: TabularRecords, needed: TabularRecords) -> None:
    if given.columns == needed.columns:
        return
    mine, theirs = ({column.name: column for column in one.columns} for one in (given, needed))
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    raise DataError(
        f"{title} ({card.name!r}) and the records were made of columns in different ways "
        f"({_some(names) if names else 'another order'}): the same feature means something else; make the records with "
        "the analysis that the model's records were made with, or train it on these"
    )


def _check_vocabulary(title: str, card: ModelCard, given: TextRecords, needed: TextRecords) -> None:
    if given.vocabulary_sha256 == needed.vocabulary_sha256 and given.pad_id == needed.pad_id:
        return
    raise DataError(
        f"{title} ({card.name!r}) and the records have different vocabularies, of {given.vocabulary_size} and "
        f"{needed.vocabulary_size} tokens: the same number is another word; make the records with the model's "
        f"vocabulary.txt (preprocess.data.vocabulary), or train it on these"
    )


def _range(values: NDArray[Any]) -> str:
    return f"{values.min()} to {values.max()}"


def _difference(given: RecordsSchema, needed: RecordsSchema) -> str:
    unknown = sorted(set(needed.classes) - set(given.classes))
    lacking = sorted(set(given.classes) - set(needed.classes))
    if not unknown and not lacking:
        return "the same names in another order"
    parts = [(unknown, "only in the records"), (lacking, "only in the model")]
    return ", ".join(f"{_some(names)} {where}" for names, where in parts if names)


def _some(names: Sequence[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + rest


def latency_ms(predictor: Predictor, example: NDArray[Any], runs: int) -> float:
    """Median time of `runs` answers for one example [*shape] in milliseconds, after a warm-up."""
    seconds = []
    for _ in range(_WARM_UP + runs):
        started = time.perf_counter()
        predictor.predict(example[None])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UP:]) * 1000


def _check_size(path: Path, card: ModelCard) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if size != card.bytes:  # LiteRT may crash the process on a file that is cut off
        raise DataError(f"{path} has {size} bytes, model.json says {card.bytes}: copy or make the model anew")


def _check_shapes(path: Path, card: ModelCard, given: tuple[int | None, ...], classes: int | None) -> None:
    records = card.records
    wanted = records.shape
    fits = len(given) == len(wanted) and all(
        size in (None, -1, needed) for size, needed in zip(given, wanted, strict=True)
    )
    if not fits or classes != len(records.classes):
        raise DataError(
            f"{path} takes {records.things} of {records.axes} {given} and answers with {classes} classes; "
            f"its model.json says {wanted} and {len(records.classes)} classes"
        )


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return DataError(f"{path} can't be loaded as a model: {reason}")


def _keras(path: Path, card: ModelCard, threads: int) -> _Run:
    import keras
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow has started already
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    try:
        model: Any = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise DataError(f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, needed: one of each")
    _check_shapes(path, card, tuple(model.inputs[0].shape[1:]), model.outputs[0].shape[-1])
    records = card.records

    def answer(examples: Any) -> Any:
        return tf.cast(model(tf.cast(examples, records.input_dtype), training=False), tf.float32)

    compiled = tf.function(answer, input_signature=[tf.TensorSpec([None, *records.shape], records.dtype)])

    def run(examples: NDArray[Any]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = compiled(tf.constant(examples)).numpy()
        return probabilities

    return run


def _litert(path: Path, card: ModelCard, threads: int) -> _Run:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    source, target = _ends(path, card, interpreter)
    given, fixed = int(source["index"]), int(source["shape_signature"][0])
    lock = threading.Lock()  # an interpreter holds the tensors of one call
    size = int(source["shape"][0])

    def run(examples: NDArray[Any]) -> NDArray[np.float32]:
        nonlocal size
        with lock:
            if len(examples) != size:
                interpreter.resize_tensor_input(given, [len(examples), *examples.shape[1:]], strict=True)
                interpreter.allocate_tensors()
                size = len(examples)
            interpreter.set_tensor(given, _quantized(examples, source))
            interpreter.invoke()
            return _dequantized(interpreter.get_tensor(target["index"]), target)

    return run if fixed == -1 else _in_batches(run, fixed)


def _ends(path: Path, card: ModelCard, interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Details of the examples' and the probabilities' tensors; a model may answer more than probabilities."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    numeric = [detail for detail in outputs if detail["dtype"] in (np.float32, np.int8, np.uint8)]
    if len(inputs) != 1 or len(numeric) != 1:
        raise DataError(f"{path} has {len(inputs)} inputs and {len(numeric)} numeric outputs, needed: one of each")
    given = tuple(int(number) for number in inputs[0]["shape_signature"][1:])
    _check_shapes(path, card, given, int(numeric[0]["shape_signature"][-1]))
    return inputs[0], numeric[0]


def _quantized(examples: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if dtype.kind == "f" or not scale or (dtype == np.uint8 and (scale, zero) == (1.0, 0)):
        return examples.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    levels: NDArray[Any] = np.clip(np.rint(examples / np.float32(scale)) + zero, limits.min, limits.max)
    return levels.astype(dtype)


def _dequantized(answers: NDArray[Any], detail: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero = detail["quantization"]
    if not scale:
        return answers.astype(np.float32, copy=False)
    probabilities: NDArray[np.float32] = (answers.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return probabilities


def _in_batches(run: _Run, size: int) -> _Run:
    """For models that take batches of one size only: the last batch is filled up with zeros, black images."""

    def run_all(examples: NDArray[Any]) -> NDArray[np.float32]:
        missing = -len(examples) % size
        filled = np.concatenate([examples, np.zeros((missing, *examples.shape[1:]), examples.dtype)])
        answers = [run(filled[start : start + size]) for start in range(0, len(filled), size)]
        return np.concatenate(answers)[: len(examples)]

    return run_all
