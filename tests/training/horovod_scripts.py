"""People's own Keras scripts, as each rank runs them and as one process does: all cases, one after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace import horovod
from millrace.errors import DataError
from millrace.training.ranks import Ranks

BATCH, STEPS, EPOCHS = 12, 4, 3
layers, optimizers = keras.layers, keras.optimizers


def dense_model(dtype: str = "float32") -> Any:
    """With a head that the loss does not know: it has no gradients."""
    inputs = keras.Input((6,))
    x = layers.Dense(8, "relu", dtype=dtype)(inputs)
    outputs = layers.Dense(3, "softmax", dtype=dtype, name="kind")(x), layers.Dense(2, dtype=dtype, name="other")(x)
    return keras.Model(inputs, outputs)


def embedding_model() -> Any:
    """Most of its rows have no gradient in most steps."""
    inputs = keras.Input((6,))
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 4)(inputs))
    return keras.Model(inputs, (layers.Dense(3, "softmax", name="kind")(x), layers.Dense(2, name="other")(x)))


def decaying() -> Any:
    """A learning rate that each step changes."""
    return optimizers.schedules.CosineDecay(0.1, 10)


def scaled() -> Any:
    """With loss scaling, and sums that ranks keep for themselves."""
    return optimizers.LossScaleOptimizer(optimizers.SGD(0.1, gradient_accumulation_steps=2), initial_scale=1024.0)


SCRIPTS: dict[str, tuple[Callable[[], Any], Callable[[], Any], float]] = {
    "momentum": (dense_model, lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1), 2e-5),
    "adam": (dense_model, lambda: optimizers.Adam(0.01, clipvalue=0.05), 2e-5),
    "adamw": (dense_model, lambda: optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.1), 2e-5),
    "averaged": (dense_model, lambda: optimizers.SGD(decaying(), use_ema=True, ema_overwrite_frequency=5), 2e-5),
    "accumulating": (dense_model, lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3), 2e-5),
    "embedding": (embedding_model, lambda: optimizers.Adam(0.01, global_clipnorm=0.01), 2e-5),
    "fp16": (dense_model, lambda: optimizers.SGD(0.1), 1e-3),
    "float16": (lambda: dense_model("mixed_float16"), scaled, 5e-3),
    "bfloat16": (lambda: dense_model("bfloat16"), lambda: optimizers.SGD(0.1), 5e-2),
}
"""How the model is made, and the optimizer; and how far the weights may be from those of one process."""


def data(case: str, ranks: Ranks) -> tuple[Any, Any]:
    """This rank's part of each batch; with float16, one record of the last rank is too large for it."""
    generator = np.random.default_rng(1)
    shape = (STEPS, BATCH, 6)
    x = generator.integers(0, 50, shape) if case.startswith("embedding") else generator.normal(size=shape)
    if case.startswith("float16"):
        x[1, -1] = np.inf
    y = generator.integers(0, 3, shape[:2])
    part = ranks.part(BATCH)
    mine = slice(part.first, part.end)
    return x[:, mine].reshape(-1, 6).astype(np.float32), y[:, mine].reshape(-1)


def compiled(case: str, ranks: Ranks) -> Any:
    """A model with weights of this rank's own."""
    make, optimizer, _ = SCRIPTS[case]
    keras.utils.set_random_seed(ranks.index)
    model = make()
    loss = [keras.losses.SparseCategoricalCrossentropy(), None]
    model.compile(optimizer(), loss=loss, metrics=[["accuracy"], []], jit_compile=False)
    return model


def script(case: str, ranks: Ranks, epochs: int = EPOCHS, model: Any = None) -> tuple[Any, dict[str, list[float]]]:
    """The trained model and its history."""
    model = model or compiled(case, ranks)
    horovod.distribute(model, ranks, compression="fp16" if case == "fp16" else "none")
    x, y = data(case, ranks)
    whole = 7 // ranks.count if ranks.index else math.ceil(7 / ranks.count)  # of 7 records of the validation
    begin = 0 if ranks.first else 7 - whole
    history = model.fit(
        x,
        y,
        batch_size=ranks.part(BATCH).size,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        validation_data=(x_of_all(case)[begin : begin + whole], np.arange(7)[begin : begin + whole] % 3),
        callbacks=[horovod.Metrics(ranks), horovod.Broadcast(ranks)],
    )
    return model, history.history


def x_of_all(case: str) -> Any:
    """The validation's records."""
    generator = np.random.default_rng(2)
    return generator.integers(0, 50, (7, 6)) if case.startswith("embedding") else generator.normal(size=(7, 6))


def variables(model: Any) -> list[Any]:
    """Weights and optimizer state as float32, but for what a rank holds until the next change of the weights."""
    every = (*model.weights, *model.optimizer.variables)
    return [variable.value.numpy().astype(np.float32) for variable in every if "accumulator" not in variable.name]


def run_all(ranks: Ranks, folder: Path) -> None:
    """All cases, as one of the ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in SCRIPTS:
        model, history = script(case, ranks)
        np.savez(folder / f"{case}.npz", *variables(model))
        (folder / f"{case}.json").write_text(json.dumps(history))
    _go_on(ranks, folder)
    _warm_up(ranks)
    _refuse(ranks)


def _go_on(ranks: Ranks, folder: Path) -> None:
    """Save, load and go on: as if nothing had been."""
    model, _ = script("adam", ranks, epochs=1)
    model.save(folder / "adam.keras")
    loaded: Any = keras.models.load_model(folder / "adam.keras")
    resumed, _ = script("adam", ranks, epochs=EPOCHS - 1, model=loaded)
    with np.load(folder / "adam.npz") as expected:
        for mine, yours in zip(variables(resumed), expected.values(), strict=True):
            assert np.array_equal(mine, yours)


def _warm_up(ranks: Ranks) -> None:
    rates: list[float] = []
    model = compiled("fp16", ranks)
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    x, y = data("fp16", ranks)
    warm_up = horovod.WarmUp(ranks, 0.1, 4)
    model.fit(x, y, batch_size=ranks.part(BATCH).size, epochs=2, verbose=0, callbacks=[warm_up, watch])
    rise = [0.1 * (1 + (ranks.count - 1) * done / 4) for done in range(5)]
    assert rates == pytest.approx([*rise, *[0.1 * ranks.count] * 3])


def _refuse(ranks: Ranks) -> None:
    """A step more on one rank would never end."""
    model = compiled("fp16", ranks)
    horovod.distribute(model, ranks)
    x, y = data("fp16", ranks)
    left = len(x) if ranks.first else ranks.part(BATCH).size
    with pytest.raises(DataError, match="the ranks take 4, 1 steps an epoch"):
        model.fit(x[:left], y[:left], batch_size=ranks.part(BATCH).size, callbacks=[horovod.Broadcast(ranks)])
