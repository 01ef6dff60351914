"""A run of several ranks that ends while it validates has lost no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.runtime.context import Rank
from millrace.training.checkpoint import State
from millrace.training.options.models import Mlp
from millrace.training.parameters import TrainParameters
from millrace.training.ranks import Alone
from tests.components.train_data import write_picture_records
from tests.training.horovod_training import run

PARAMETERS = TrainParameters(
    model=Mlp(units=(4,)), epochs=2, batch_size=16, strategy="horovod", cache_mib=0, checkpoint_steps=1000
)
FIRST = Rank(index=0, size=2, local_index=0, local_size=1)


def weights(folder: Path) -> list[Any]:
    model: Any = keras.models.load_model(folder / "model" / "model.keras")
    return [weight.numpy() for weight in model.weights]


def test_training_is_kept_when_the_validation_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.training.train._connect", lambda *_: Alone())  # the others are not needed
    records = write_picture_records(tmp_path / "records")
    run(tmp_path / "whole", records, PARAMETERS, FIRST)
    [file] = records.glob("validation-00000-*.tfrecord")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(tf.errors.DataLossError):
        run(tmp_path / "cut", records, PARAMETERS, FIRST)
    with np.load(tmp_path / "cut" / "checkpoints" / "checkpoint.npz") as stored:
        state = State.model_validate_json(str(stored["state"]))
    assert (state.step, state.history) == (4, [])
    file.write_bytes(content)
    run(tmp_path / "cut", records, PARAMETERS, FIRST)
    whole, cut = [
        (folder / "checkpoints" / "history.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert [json.loads(line) for line in whole.splitlines()] == [json.loads(line) for line in cut.splitlines()]
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "cut"), strict=True):
        assert np.array_equal(one, other)
