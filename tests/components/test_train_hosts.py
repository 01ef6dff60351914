"""Training on several hosts: as one host would, and all end when one does."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace.components.train.spec import TrainParameters, train
from millrace.errors import UserError
from millrace.runtime.context import Hosts
from millrace.runtime.execute import attempt
from millrace.runtime.task import GivenArtifact, TaskRequest, launch, read_failure
from millrace.testing import run_component
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.options.models import Cnn, Custom, Mlp
from millrace.training.options.schedules import EarlyStopping, ReduceOnPlateau
from tests.components.train_data import write_picture_records

pytestmark = pytest.mark.slow

HUGE = Pixels(rescale=1e38)
# all that is random but dropout, whose bits are each host's own
SAME = TrainParameters(
    model=Mlp(units=(16,), dropout=0, batch_norm=False),
    augmentation=Augmentation(rotation_degrees=20, zoom=(0.8, 1.2), brightness=(0.8, 1.2)),
    schedule=ReduceOnPlateau(patience=1),
    class_weights="balanced",
    gradient_clip_norm=1.0,
    label_smoothing=0.1,
    learning_rate=0.01,
    epochs=4,
    batch_size=15,
    test_steps=2,
    strategy="multiworker",
    peer_seconds=60,
)


@dataclass(frozen=True)
class Group:
    """The hosts of a training, each a process here."""

    directories: tuple[Path, ...]
    processes: tuple[subprocess.Popen[bytes], ...]

    def wait(self, seconds: float = 120) -> list[int]:
        deadline = time.monotonic() + seconds
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def log(self, index: int) -> str:
        return (self.directories[index] / "log.txt").read_text()

    def messages(self) -> list[str]:
        return [failure.message if (failure := read_failure(folder)) else "" for folder in self.directories]

    def finish(self) -> Path:
        """Wait until all are done and give the first one's directory."""
        assert self.wait() == [0] * len(self.processes), [self.log(index) for index in range(len(self.processes))]
        return self.directories[0]

    def wait_for_epoch(self, number: int) -> None:
        history = self.directories[0] / "checkpoints" / "history.jsonl"
        deadline = time.monotonic() + 180
        while not (history.exists() and len(history.read_text().splitlines()) >= number):
            assert time.monotonic() < deadline, self.log(0)
            assert self.processes[0].poll() is None, self.log(0)
            time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def ask(directory: Path, records: Path, parameters: TrainParameters, hosts: Hosts | None = None) -> Path:
    TaskRequest(
        name="train",
        component=train.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
        hosts=hosts or Hosts(),
    ).write(directory)
    return directory


@contextmanager
def started(
    folder: Path, records: Path | tuple[Path, ...], parameters: TrainParameters, count: int = 2, only: int | None = None
) -> Iterator[Group]:
    """Start all hosts, or only one of them."""
    names = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
    given = records if isinstance(records, tuple) else (records,) * count
    ranks = range(count) if only is None else (only,)
    directories = tuple(
        ask(folder / f"host-{index}", given[index], parameters, Hosts(names=names, index=index)) for index in ranks
    )
    environment = {"http_proxy": "http://127.0.0.1:9", "TF_CPP_MIN_LOG_LEVEL": "3"}  # which must not be asked
    processes = tuple(launch(directory, environment) for directory in directories)
    try:
        yield Group(directories, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def alone(folder: Path, records: Path, parameters: TrainParameters) -> Trained:
    return trained(run_component(train, parameters, folder / "alone", records=records).outputs["model"].parents[1])


@dataclass(frozen=True)
class Trained:
    """What a training led to."""

    weights: list[Any]
    history: list[dict[str, float]]
    metrics: dict[str, float]


def trained(directory: Path) -> Trained:
    loaded: Any = keras.models.load_model(directory / "outputs" / "model" / "model.keras")
    lines = (directory / "checkpoints" / "history.jsonl").read_text().splitlines()
    metrics = json.loads((directory / "outputs" / "metrics" / "metrics.json").read_bytes())
    return Trained([weight.numpy() for weight in loaded.weights], [json.loads(line) for line in lines], metrics)


def assert_alike(one: Trained, other: Trained) -> None:
    for mine, yours in zip(one.weights, other.weights, strict=True):
        assert np.allclose(mine, yours, atol=2e-5)
    for first, second in zip(one.history, other.history, strict=True):
        assert first == pytest.approx(second, abs=2e-5)
    assert one.metrics == pytest.approx(other.metrics, abs=2e-5)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_records(tmp_path_factory.mktemp("records"), validation=(5, 6, 6), test=(5, 5, 5))


class TestSameAsOneHost:
    @pytest.mark.parametrize(("count", "cache_mib"), [(2, 0), (3, 512)])
    def test_weights_and_figures(self, tmp_path: Path, records: Path, count: int, cache_mib: int) -> None:
        parameters = SAME.model_copy(update={"cache_mib": cache_mib})
        with started(tmp_path, records, parameters, count) as group:
            expected = alone(tmp_path, records, parameters)
            assert_alike(trained(group.finish()), expected)
            models = [folder / "outputs" / "model" / "model.keras" for folder in group.directories]
            assert len({model.read_bytes() for model in models}) == 1
            for index in range(1, count):
                assert list((group.directories[index] / "checkpoints").iterdir()) == []
                assert "epoch=" not in group.log(index).split("epochs=")[0]

    def test_fewer_records_than_hosts_could_use(self, tmp_path: Path) -> None:
        tiny = write_picture_records(tmp_path / "tiny", train=(1, 1, 1), validation=(1, 0, 0), test=(1, 0, 0))
        parameters = SAME.model_copy(update={"batch_size": 3})
        with started(tmp_path, tiny, parameters) as group:
            expected = alone(tmp_path, tiny, parameters)
            assert_alike(trained(group.finish()), expected)


RANDOM = TrainParameters(
    model=Cnn(filters=(4,), units=(16,), dropout=0.5),
    augmentation=Augmentation(rotation_degrees=20),
    schedule=ReduceOnPlateau(patience=1),
    epochs=30,
    early_stopping=EarlyStopping(patience=30),
    batch_size=16,
    checkpoint_steps=3,
    strategy="multiworker",
    peer_seconds=60,
)


class TestInterrupted:
    def test_a_host_killed_then_one_told_to_stop(self, tmp_path: Path, records: Path) -> None:
        """What comes of it is told in tests/training/test_resume.py."""
        with started(tmp_path, records, RANDOM) as group:
            group.wait_for_epoch(3)
            group.processes[1].kill()
            begun = time.monotonic()
            assert group.processes[0].wait(30) == 75
            assert time.monotonic() - begun < 15
            assert re.fullmatch(
                r"127\.0\.0\.1:\d+ ended or can't be reached any more; its own log says why", group.messages()[0]
            )
        (tmp_path / "host-1" / "checkpoints" / "checkpoint.npz").write_bytes(b"of nobody's interest")
        with started(tmp_path, records, RANDOM) as group:
            group.wait_for_epoch(8)
            group.processes[1].send_signal(signal.SIGTERM)
            assert group.wait(30) == [143, 143], [group.log(0), group.log(1)]
            assert group.log(0).count("going on from step") == 1

    def test_the_first_host_killed(self, tmp_path: Path, records: Path) -> None:
        with started(tmp_path, records, RANDOM, 3) as group:
            group.wait_for_epoch(2)
            group.processes[0].kill()
            begun = time.monotonic()
            assert group.wait(30)[1:] == [75, 75]
            assert time.monotonic() - begun < 20

    def test_a_host_that_hangs(self, tmp_path: Path, records: Path) -> None:
        with started(tmp_path, records, RANDOM.model_copy(update={"peer_seconds": 8.0})) as group:
            group.wait_for_epoch(2)
            group.processes[1].send_signal(signal.SIGSTOP)
            assert group.processes[0].wait(40) == 75
            assert "another host did not come as far within 8 s (peer_seconds)" in group.messages()[0]


class TestFailing:
    def test_other_records_on_one_host(self, tmp_path: Path, records: Path) -> None:
        half = write_picture_records(tmp_path / "half", train=(10, 10, 10), test=(5, 5, 5))
        with started(tmp_path, (records, half), SAME) as group:
            assert group.wait(60) == [2, 2], [group.log(0), group.log(1)]
            told = r"train-00000-of-00002.tfrecord is another file on 127\.0\.0\.1:\d+ than on 127\.0\.0\.1:\d+: give"
            assert all(re.match(told, message) for message in group.messages())

    @pytest.mark.parametrize("broken", [0, 1])
    def test_no_records_on_one_host(self, tmp_path: Path, records: Path, broken: int) -> None:
        empty = shutil.copytree(records, tmp_path / "empty", ignore=shutil.ignore_patterns("train-*"))
        given = (empty, records) if broken == 0 else (records, empty)
        with started(tmp_path, given, SAME.model_copy(update={"peer_seconds": 200.0})) as group:
            assert group.wait(90) == [2, 2], group.messages()
            assert all("no train records" in message for message in group.messages())

    def test_numbers_that_are_none_end_all(self, tmp_path: Path, records: Path) -> None:
        parameters = SAME.model_copy(
            update={"model": Custom(function="tests.components.test_train_parts:constant_model"), "pixels": HUGE}
        )
        with started(tmp_path, records, parameters) as group:
            assert group.wait(60) == [1, 1]
            assert all("loss became nan in epoch 1, step 1" in message for message in group.messages())

    def test_a_host_that_never_comes(self, tmp_path: Path, records: Path) -> None:
        with started(tmp_path, records, SAME.model_copy(update={"peer_seconds": 3.0}), only=0) as group:
            assert group.wait(60) == [75]
            assert "did not come in time (peer_seconds): [Errno 111] Connection refused" in group.messages()[0]

    @pytest.mark.parametrize(
        ("change", "hosts", "message"),
        [
            ({"strategy": "single"}, Hosts(names=("a", "b")), "strategy=single, but 2 hosts are there"),
            ({}, Hosts(names=("a", "b"), processes=2), r"one process a host.* use strategy=horovod"),
            ({"batch_size": 1}, Hosts(names=("a", "b")), "choose 2 or more"),
        ],
    )
    def test_refused_before_anybody_is_waited_for(
        self, tmp_path: Path, records: Path, change: dict[str, Any], hosts: Hosts, message: str
    ) -> None:
        directory = ask(tmp_path / "task", records, SAME.model_copy(update=change), hosts)
        request = TaskRequest.model_validate_json((directory / "task.json").read_bytes())
        with pytest.raises(UserError, match=message):
            attempt(directory, request)
