"""A run that is killed at random moments ends as if it had not been: same bits, each record once an epoch."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace.components.train.spec import TrainParameters, train
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.training.options.images import Augmentation
from millrace.training.options.models import Cnn, Custom
from millrace.training.options.optimizers import Sgd
from millrace.training.options.schedules import ReduceOnPlateau
from tests.components.train_data import write_picture_records
from tests.conftest import needed
from tests.runtime.launcher.groups import Group, group_of
from tests.training.shard_data import write_shards

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

pytestmark = pytest.mark.slow

RANDOM = TrainParameters(
    model=Cnn(filters=(4,), units=(16,), dropout=0.5),
    augmentation=Augmentation(rotation_degrees=20),
    schedule=ReduceOnPlateau(patience=1, warmup_epochs=2.5),
    epochs=40,
    early_stopping=None,
    batch_size=15,
    checkpoint_steps=3,
    peer_seconds=60,
)


@pytest.fixture
def moments() -> random.Random:
    seed = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


@contextmanager
def ranks(folder: Path, records: Path, parameters: TrainParameters, processes: int = 2) -> Iterator[Group]:
    request = TaskRequest(
        name="train",
        component=train.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
    )
    with group_of(folder, request, processes=processes) as group:
        yield group


def epochs(group: Group) -> list[dict[str, float]]:
    history = group.directory(0) / "checkpoints" / "history.jsonl"
    return [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []


def wait_for_some(group: Group, moments: random.Random, most: int = 8) -> None:
    """Until a moment in one of the next epochs."""
    wanted, deadline = len(epochs(group)) + moments.randint(1, most), time.monotonic() + 180
    while len(epochs(group)) < wanted:
        assert time.monotonic() < deadline, group.log()
        assert group.process(0).poll() is None, group.log()
        time.sleep(0.005)
    time.sleep(moments.uniform(0, 0.1))


def test_killed_three_times(tmp_path: Path, moments: random.Random) -> None:
    records = write_picture_records(tmp_path / "records")
    with ranks(tmp_path / "whole", records, RANDOM) as whole:
        assert whole.wait(120) == [0], whole.log()
    with ranks(tmp_path / "cut", records, RANDOM) as cut:
        wait_for_some(cut, moments)
        cut.kill_host(0)
    with ranks(tmp_path / "cut", records, RANDOM) as cut:
        wait_for_some(cut, moments)
        moments.choice(cut.ranks(0)).kill()
        assert cut.wait(30) == [1], cut.log()
    with ranks(tmp_path / "cut", records, RANDOM) as cut:
        wait_for_some(cut, moments)
        cut.process(0).send_signal(signal.SIGTERM)
        assert cut.wait(30) == [143], cut.log()
        assert "told to stop: checkpoint written at step" in cut.log()
    with ranks(tmp_path / "cut", records, RANDOM) as cut:
        assert cut.wait(120) == [0], cut.log()
        assert cut.log().count("going on from step") == 3
    assert epochs(cut) == epochs(whole)
    for file in ("model/model.keras", "metrics/metrics.json", "metrics/charts.json"):
        assert (whole.directory(0) / "outputs" / file).read_bytes() == (
            cut.directory(0) / "outputs" / file
        ).read_bytes()


COUNTING = TrainParameters(
    model=Custom(function="tests.training.test_resume:counting_model"),
    optimizer=Sgd(momentum=0),
    learning_rate=8.0,
    epochs=20,
    early_stopping=None,
    batch_size=16,
    checkpoint_steps=1,
    sharding="file",
    peer_seconds=60,
)


def counting_model(shape: tuple[int, ...], classes: int) -> Any:
    """Has a row of weights for each record (see `shard_data`), which only that record changes."""
    dense = keras.layers.Dense(classes, activation="softmax", use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), dense])


def learned(times: int) -> Any:
    """The row of a record of class 0 that was seen so many times."""
    row = np.zeros(3)
    for _ in range(times):
        answer = np.exp(row) / np.exp(row).sum()
        row -= COUNTING.learning_rate / COUNTING.batch_size * (answer - np.eye(3)[0])
    return row


def test_each_record_once_an_epoch_also_with_other_ranks_after_a_kill(tmp_path: Path, moments: random.Random) -> None:
    records = write_shards(tmp_path / "records", (31, 20, 0, 29))  # 5 steps of 16
    with ranks(tmp_path, records, COUNTING, processes=2) as group:
        wait_for_some(group, moments)
        group.kill_host(0)
    assert len(epochs(group)) < COUNTING.epochs
    with ranks(tmp_path, records, COUNTING, processes=3) as group:
        assert group.wait(120) == [0], group.log()
        assert group.log().count("going on from step") == 1
    model: Any = keras.models.load_model(group.directory(0) / "outputs" / "model" / "model.keras")
    rows = model.get_weights()[0]
    expected, other = learned(COUNTING.epochs), learned(COUNTING.epochs + 1)
    assert np.abs(expected - other).max() > 1e-2
    for number, row in enumerate(rows[:80]):
        assert np.roll(row, -(number % 3)) == pytest.approx(expected, abs=1e-4), number
    assert not rows[80:].any()
