"""What each rank of test_tensor_parallel.py does: all cases, one after the other."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace.runtime.context import Context, Rank
from millrace.runtime.records import ImageRecord
from millrace.runtime.schemas import ImageRecords
from millrace.testing import write_records
from millrace.training.horovod import HorovodRanks
from millrace.training.options.images import Pixels
from millrace.training.options.models import Cnn, Custom, Mlp
from millrace.training.options.optimizers import AdamW, Sgd
from millrace.training.options.parallel import Parallel
from millrace.training.parameters import TrainParameters
from millrace.training.tensor_parallel_ranks import TensorRanks, connect
from tests.pictures import png
from tests.training.horovod_training import run

CLASSES = tuple(f"class-{number:02}" for number in range(11))
HEAD = TrainParameters(
    model=Mlp(units=(16, 8), dropout=0, batch_norm=False),
    parallel=Parallel(min_units=11),
    class_weights="balanced",
    label_smoothing=0.1,
    learning_rate=0.01,
    epochs=4,
    batch_size=18,
    test_steps=1,
    peer_seconds=60,
)
"""Columns and rows, and a head whose logits stay apart; eleven classes divide by nothing."""


def _like(**changes: Any) -> TrainParameters:
    return HEAD.model_copy(update=changes)


def _custom(function: str, *layers: str, **changes: Any) -> TrainParameters:
    model = Custom(function=f"tests.training.tensor_parallel_training:{function}")
    return _like(model=model, pixels=Pixels(rescale=1.0), parallel=Parallel(layers=layers), **changes)


CASES: dict[str, tuple[TrainParameters, int]] = {
    "head": (HEAD, 2),
    "vocabulary": (_custom("words", "words", "inner", "long"), 2),
    "clipped": (_custom("words", "words", "wide", "classes", gradient_clip_norm=0.05), 4),
    "random": (
        _like(
            model=Cnn(filters=(4,), units=(16, 8), dropout=0.3),
            gradient_accumulation_steps=2,
            gradient_clip_norm=0.05,
            optimizer=AdamW(),
        ),
        4,
    ),
}
"""Parameters, and ranks that hold one model, of four; all lead to what one process gets."""
ROUGH = _like(amp=True, amp_dtype="bfloat16")
RESUMED = _like(optimizer=Sgd(momentum=0.9), learning_rate=0.1, gradient_clip_norm=0.2)


def words(shape: tuple[int, ...], classes: int) -> Any:
    """Sees pixels as words, some of them padding, some in no picture; a model in a model."""
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Flatten()(layers.Rescaling(0.1)(inputs))
    x = layers.GlobalAveragePooling1D()(layers.Embedding(27, 6, mask_zero=True, name="words")(x))
    x = layers.Dense(9, activation="gelu", name="wide")(x)
    inner = keras.Sequential(
        [keras.Input((9,)), layers.Dense(13, use_bias=False, name="inner"), layers.LayerNormalization()]
    )
    x = inner(x)
    x = layers.Concatenate()([layers.Dense(5, activation="softmax", name="long")(x), x])
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="classes")(x))


def write_many_classes(folder: Path) -> Path:
    """Pictures of eleven classes."""
    schema = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=CLASSES)
    return write_records(
        folder, schema, {"train": [_pictures(6)], "validation": [_pictures(2)], "test": [_pictures(1)]}
    )


def _pictures(of_each: int) -> Iterator[ImageRecord]:
    for number in range(of_each):
        for label in range(len(CLASSES)):
            pixels = np.random.default_rng([label, number]).integers(0, 100, (8, 8, 1), np.uint8)
            pixels[label % 8, : 4 + label // 8] += np.uint8(150)
            yield ImageRecord(png(pixels), label, f"file:///{label}/{number}.png")


def with_tensor(parameters: TrainParameters, tensor: int) -> TrainParameters:
    """The same, with a model on that many ranks."""
    return parameters.model_copy(update={"parallel": parameters.parallel.model_copy(update={"tensor": tensor})})


def main(folder: Path) -> None:
    """All cases as one of four ranks, or one as one of two, which meet by themselves."""
    index, size = int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
    rank = Rank(index=index, size=size, local_index=index, local_size=size)
    records, mine = folder / "records", folder / f"rank-{index}"
    if size == 2:
        run(mine, records, with_tensor(ROUGH, 2), rank)
        return
    pairs = connect(rank, 2, 60, Context(scratch=folder, checkpoints=folder).log)
    everyone = HorovodRanks([f"rank {number}" for number in range(size)], index, 60)
    ranks = {2: pairs, 4: TensorRanks(everyone, everyone, None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HorovodRanks, "leave", lambda _: None)
        patch.setattr("millrace.training.train._connect", lambda _, parameters, __: ranks[parameters.parallel.tensor])
        for name, (parameters, tensor) in CASES.items():
            run(mine / name, records, with_tensor(parameters, tensor), rank)
        with pytest.raises(SystemExit):  # one is told to stop, all do
            run(mine / "begun", records, with_tensor(RESUMED, 2), rank, stop_at=9 if index == 3 else 1_000)
        shutil.copytree(mine / "begun" / "checkpoints", mine / "resumed" / "checkpoints")
        run(mine / "resumed", records, with_tensor(RESUMED, 4), rank)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
