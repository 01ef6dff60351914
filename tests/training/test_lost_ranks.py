"""Which errors mean that another rank is gone, and what distributing an optimizer twice does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from millrace.errors import PeerError
from millrace.training.ranks import Alone
from tests.conftest import needed

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

from millrace import horovod
from millrace.training.horovod import HorovodRanks

DETECTED = """Graph execution error:

Detected at node IteratorGetNext defined at (most recent call last):
  File "/home/ann/horovod/gloo/transport/train.py", line 12, in <module>
"""
GONE = "[/tmp/horovod-0.28.1/third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer [10.0.0.2]:400"
SHUT_DOWN = "Horovod has been shut down. This was caused by an exception on one of the ranks"


@pytest.mark.parametrize("error", [tf.errors.UnknownError(None, None, told) for told in (GONE, SHUT_DOWN)])
def test_another_rank_is_gone(error: tf.errors.OpError) -> None:
    with pytest.raises(PeerError, match="another rank ended"), HorovodRanks(("a", "b"), 0, 1.0).ending_together():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.DataLossError(None, None, f"{DETECTED}corrupted record at 12 in /data/horovod/train-00000"),
        tf.errors.InvalidArgumentError(None, None, "Mismatched allreduce tensor shapes [Op:HorovodAllreduce]"),
    ],
)
def test_what_is_this_rank_s_own(error: tf.errors.OpError) -> None:
    with pytest.raises(type(error)), HorovodRanks(("a", "b"), 0, 1.0).ending_together():
        raise error


class Half(Alone):
    """Two ranks, of which the other one has no gradients."""

    @property
    def count(self) -> int:
        return 2

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        return list(tensors)


def test_gradients_are_averaged_once() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    for _ in range(2):
        horovod.distribute(model, Half())
    model.train_on_batch(np.ones((4, 1)), np.ones((4, 1)))
    assert model.get_weights()[0] == pytest.approx(0.5)  # of a gradient of -2, half


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The variable by which Horovod knows how long to wait, as a launcher may set it."""
    for name in ("GLOO_TIMEOUT", "STALL_CHECK_TIME", "STALL_SHUTDOWN_TIME"):
        monkeypatch.setenv(f"HOROVOD_{name}_SECONDS", "30")
    yield "HOROVOD_GLOO_TIMEOUT_SECONDS"
    HorovodRanks(("a",), 0, 1.0).leave()


@pytest.mark.parametrize(("seconds", "kept"), [(None, "30"), (7.0, "7")])
def test_how_long_ranks_wait(limits: str, seconds: float | None, kept: str) -> None:
    horovod.init(seconds)
    assert os.environ[limits] == kept
