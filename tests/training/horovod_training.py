"""What each rank of test_horovod_training.py does, and the same for one process: all cases, one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.runtime.context import Context, Hosts, Rank
from millrace.specs import Logs, Metrics, Model, Records
from millrace.training.horovod import HorovodRanks, connect
from millrace.training.options.images import Augmentation
from millrace.training.options.models import Cnn, Custom, Mlp
from millrace.training.options.optimizers import AdamW
from millrace.training.options.schedules import Cosine
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.ranks import Ranks
from millrace.training.step import synchronise
from millrace.training.train import train
from tests.training import horovod_scripts

CALM = TrainParameters(
    model=Mlp(units=(16,), dropout=0, batch_norm=False),
    augmentation=Augmentation(rotation_degrees=20, brightness=(0.8, 1.2)),
    class_weights="balanced",
    gradient_clip_norm=1.0,
    label_smoothing=0.1,
    learning_rate=0.01,
    epochs=2,
    batch_size=15,
    peer_seconds=60,
)
EMBEDDING = CALM.model_copy(
    update={
        "model": Custom(function="tests.training.horovod_training:embedding_model"),
        "augmentation": Augmentation(),
    }
)
ACCUMULATING = CALM.model_copy(
    update={
        "gradient_accumulation_steps": 3,
        "optimizer": AdamW(),
        "schedule": Cosine(warmup_epochs=0.5),
        "test_steps": 2,
    }
)
"""Five steps an epoch: weights change after the third and the fifth."""
CASES: dict[str, TrainParameters] = {
    "xla": ACCUMULATING.model_copy(update={"xla": True, "deterministic": False}),  # before anything is deterministic
    "accumulating": ACCUMULATING,
    "embedding": EMBEDDING,
    "half": CALM.model_copy(
        update={
            "amp": True,
            "amp_dtype": "float16",
            "gradient_compression": "fp16",
            "augmentation": Augmentation(),
            "epochs": 1,
        }
    ),
}
RANDOM = CALM.model_copy(
    update={"model": Cnn(filters=(4,), units=(8,), dropout=0.5), "batch_size": 16, "gradient_accumulation_steps": 3}
)


def embedding_model(shape: tuple[int, ...], classes: int) -> Any:
    """Sees pixels as words."""
    inputs = keras.Input(shape)
    x = keras.layers.Flatten()(keras.layers.Rescaling(20.0)(inputs))
    x = keras.layers.Embedding(40, 4)(x)  # rows that no pixel asks for
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


class Staying(HorovodRanks):
    """Trains again after a training."""

    def leave(self) -> None:
        """Stay."""


def run(folder: Path, records: Path, parameters: TrainParameters, rank: Rank | None = None, stop_at: int = 0) -> None:
    """Train into a folder as one of the ranks, or alone; with `stop_at`, be told to stop after so many steps."""
    context = _Stopped if stop_at else Context
    outputs = {name: folder / name for name in ("scratch", "checkpoints", "model", "metrics", "logs")}
    for path in outputs.values():
        path.mkdir(parents=True, exist_ok=True)
    result = train(
        parameters,
        TrainInputs.model_construct(records=Records(location=records), study=None),
        TrainOutputs.model_construct(
            model=Model(location=outputs["model"]),
            metrics=Metrics(location=outputs["metrics"]),
            logs=Logs(location=outputs["logs"]),
        ),
        context(
            scratch=outputs["scratch"],
            checkpoints=outputs["checkpoints"],
            hosts=Hosts(names=tuple(f"host-{number}" for number in range(rank.size if rank else 1))),
            rank=rank,
            task=str(stop_at),
        ),
    )
    (folder / "result.json").write_text(json.dumps(result.metrics))


class _Stopped(Context):
    def progress(self, done: int, total: int | None = None, unit: str = "items") -> None:
        if done >= int(self.task):
            os.kill(os.getpid(), signal.SIGTERM)


def steps(ranks: Ranks) -> dict[str, Any]:
    """Steps with parts that no batch would be cut into."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 6, 4)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[generator.integers(0, 3, (4, 6))]
    part = ranks.part(6)
    turns = [slice(0, 6 if number % ranks.count == ranks.index else 0) for number in range(4)]
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["accuracy"])
    figures = _take(model, ranks, [(x[number, turn], y[number, turn]) for number, turn in enumerate(turns)])
    found: dict[str, Any] = {"none": [*(weight.numpy() for weight in model.weights), *figures]}
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="mixed_float16")])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1024.0), "mse")
    x[0, 5] = np.inf
    before = model.get_weights()
    _take(model, ranks, [(x[0, part.first : part.end], y[0, part.first : part.end])])
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    assert float(model.optimizer.dynamic_scale) == 512
    _take(model, ranks, [(x[1, part.first : part.end], y[1, part.first : part.end])])
    return found | {"skipped": model.get_weights()}


def _take(model: Any, ranks: Ranks, batches: list[Any]) -> list[float]:
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(x=None, y=tf.zeros([1, 3]), y_pred=tf.zeros([1, 3]))
    synchronise(model, ranks)
    kinds = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 3))), tf.TensorSpec(())
    pairs = [(batch, 6.0) for batch in batches]
    data = iter(tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=kinds))
    figures: dict[str, Any] = {}
    for _ in batches:
        figures = model.train_function(data)
    return [float(value) for value in figures.values()]


def main(folder: Path) -> None:
    """All cases, as one of the ranks."""
    index, size = int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
    rank = Rank(index=index, size=size, local_index=0, local_size=1)  # as of a host of its own, so that it writes
    records, mine = folder / "records", folder / f"rank-{index}"
    found = connect(60, Context(scratch=folder, checkpoints=folder).log)

    def staying(*_: object) -> Ranks:
        return Staying(found.names, found.index, found.seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("millrace.training.train._connect", staying)
        if size > 2:
            run(mine / "accumulating", records, ACCUMULATING, rank)
            return
        for name, parameters in {**CASES, "random": RANDOM}.items():
            run(mine / name, records, parameters, rank)
        with pytest.raises(SystemExit):
            run(mine / "resumed", records, RANDOM, rank, stop_at=4 if index else 1_000)  # all hear of it
        run(mine / "resumed", records, RANDOM, rank)
    (mine / "steps.json").write_text(json.dumps(steps(staying()), default=lambda array: array.tolist()))
    horovod_scripts.run_all(staying(), mine / "scripts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
