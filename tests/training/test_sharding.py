"""Which records a step takes: each once an epoch, the same for any number of ranks, whoever has the files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millrace.components.train.spec import TrainParameters
from millrace.errors import ConfigError
from millrace.training.collectives import Collectives
from millrace.training.data import Data, evaluation_batches, inspect, training_batches
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.options.models import Mlp
from millrace.training.schedule import scaled
from tests.components.test_train_hosts import alone, assert_alike, started, trained
from tests.training.shard_data import give, numbers, write_shards

PARAMETERS = TrainParameters(batch_size=15, shuffle_buffer=20)
APART = PARAMETERS.model_copy(update={"sharding": "file"})
Deal = Sequence[int]
"""Which rank reads each file."""


def rank(index: int, count: int) -> Collectives:
    """One that has not met the others."""
    return Collectives([f"host-{number}" for number in range(count)], index, 5.0, {})


def streams(data: Data, parameters: TrainParameters, deal: Deal | int, start: int, steps: int) -> list[list[Any]]:
    """What each rank sees, by step."""
    count = deal if isinstance(deal, int) else max(deal) + 1
    found = []
    for index in range(count):
        own = data
        if not isinstance(deal, int):
            files = data.files or {}
            train = tuple(file._replace(mine=of == index) for file, of in zip(files["train"], deal, strict=True))
            own = replace(data, files={**files, "train": train})
        batches = training_batches(own, parameters, start, rank(index, count)).take(steps)
        found.append(list(batches.as_numpy_iterator()))
    return found


def seen(ranks: list[list[Any]]) -> list[list[int]]:
    """The records of each step, of all ranks; their sizes are as they were told."""
    steps = []
    for parts in zip(*ranks, strict=True):
        steps.append(sorted(number for (images, *_), _ in parts for number in numbers(images)))
        assert {float(whole) for _, whole in parts} == {len(steps[-1])}
    return steps


def brightness(steps: list[Any]) -> dict[int, float]:
    """By record."""
    return {
        n: float(image.max()) for (images, *_), _ in steps for n, image in zip(numbers(images), images, strict=True)
    }


def assert_once(steps: list[list[int]], records: int) -> None:
    assert Counter(number for step in steps for number in step) == Counter(range(records))


@pytest.mark.parametrize("cache_mib", [512, 0])
class TestStream:
    def test_each_record_once_an_epoch_for_any_number_of_ranks(self, tmp_path: Path, cache_mib: int) -> None:
        parameters = PARAMETERS.model_copy(update={"cache_mib": cache_mib})
        data = inspect(write_shards(tmp_path / "records", (33, 31)), parameters)
        whole = [sorted(numbers(images)) for images, _ in training_batches(data, parameters, 0).take(10)]
        assert [len(step) for step in whole] == [12, 13, 13, 13, 13] * 2
        assert_once(whole[:5], 64)
        assert_once(whole[5:], 64)
        assert whole[:5] != whole[5:]
        for count in (2, 3):
            assert seen(streams(data, parameters, count, 0, 10)) == whole
        assert seen(streams(data, parameters, 2, 4, 3)) == whole[4:7]

    @pytest.mark.parametrize("sizes", [(1, 30, 0, 17, 16), (65,)])
    def test_each_record_once_whoever_reads_the_files(
        self, tmp_path: Path, cache_mib: int, sizes: tuple[int, ...]
    ) -> None:
        parameters = APART.model_copy(update={"cache_mib": cache_mib})
        total = sum(sizes)
        data = inspect(write_shards(tmp_path / "records", sizes), parameters)
        whole = [sorted(numbers(images)) for images, _ in training_batches(data, parameters, 0).take(10)]
        assert_once(whole[:5], total)
        assert_once(whole[5:], total)
        assert {len(step) for step in whole} <= {total // 5, total // 5 + 1}
        deals = [[number % 3 for number in range(len(sizes))], [1, *[0] * (len(sizes) - 1)]]
        for deal in deals:
            assert seen(streams(data, parameters, deal, 0, 10)) == whole
        assert seen(streams(data, parameters, deals[0], 7, 3)) == whole[7:]

    def test_ranks_with_evenly_many_files_have_evenly_many_records_of_a_step(
        self, tmp_path: Path, cache_mib: int
    ) -> None:
        parameters = APART.model_copy(update={"cache_mib": cache_mib, "batch_size": 24})
        data = inspect(write_shards(tmp_path / "records", (12,) * 8), parameters)
        for parts in zip(*streams(data, parameters, [0, 1] * 4, 0, 8), strict=True):
            assert all(abs(len(images) - 12) <= 1 for (images, _), _ in parts)

    def test_augmentation_does_not_depend_on_who_reads(self, tmp_path: Path, cache_mib: int) -> None:
        change = {"cache_mib": cache_mib, "augmentation": Augmentation(brightness=(0.2, 0.9))}
        parameters = APART.model_copy(update=change)
        data = inspect(write_shards(tmp_path / "records", (33, 31)), parameters)
        whole, one, other = (brightness(streams(data, parameters, deal, 0, 5)[0]) for deal in ([0, 0], [0, 1], [1, 0]))
        assert {**one, **other} == pytest.approx(whole)
        assert len(set(whole.values())) > 60

    def test_evaluation_takes_each_record_once(self, tmp_path: Path, cache_mib: int) -> None:
        parameters = APART.model_copy(update={"cache_mib": cache_mib})
        data = inspect(write_shards(tmp_path / "records", (33, 31), (20, 0, 10)), parameters)
        files = data.files or {}
        for limit, expected in ((None, 30), (1, 15)):
            found: list[int] = []
            for index in range(2):
                mine = tuple(file._replace(mine=place % 2 == index) for place, file in enumerate(files["validation"]))
                own = replace(data, files={**files, "validation": mine})
                batches = evaluation_batches(own, "validation", parameters, limit, rank(index, 2))
                assert int(batches.cardinality()) == len(list(batches))
                found += [number for images, _ in batches for number in numbers(images)]
            assert sorted(found) == list(range(expected))


def test_scaling() -> None:
    parameters = TrainParameters(batch_size=8, learning_rate=0.01)
    assert scaled(parameters, 4, 1000) == parameters
    for scaling, rate in (("linear", 0.04), ("sqrt", 0.02)):
        one = scaled(parameters.model_copy(update={"scaling": scaling}), 4, 1000)
        assert one.batch_size == 32
        assert one.learning_rate == pytest.approx(rate)
    with pytest.raises(ConfigError, match=r"8 on each of 4 ranks .* only 20 train records: choose 5 or less"):
        scaled(parameters.model_copy(update={"scaling": "linear"}), 4, 20)


CALM = TrainParameters(
    model=Mlp(units=(8,), dropout=0, batch_norm=False),
    pixels=Pixels(normalise="featurewise"),
    augmentation=Augmentation(brightness=(0.5, 1)),
    class_weights="balanced",
    learning_rate=0.02,
    epochs=2,
    batch_size=16,
    peer_seconds=60,
)


@pytest.mark.slow
class TestRanks:
    """Each against one process that reads all files, in which the same records make up a step."""

    def test_files_of_their_own_with_one_record_more(self, tmp_path: Path) -> None:
        """Dealt out as objects of a bucket are: file by file, even the counts apart from what they count."""
        records = write_shards(tmp_path / "records", (33, 32), (5, 4))
        given = (
            give(records, tmp_path / "one", "*-00000-of-*", "schema.json"),
            give(records, tmp_path / "other", "*-00001-of-*.tfrecord"),
        )
        for counts in records.glob("*-00001-of-*.json"):
            (given[0] / counts.name).write_bytes(counts.read_bytes())
        change = {"strategy": "multiworker", "scaling": "linear", "batch_size": 8, "learning_rate": 0.01}
        with started(tmp_path, given, CALM.model_copy(update=change)) as group:
            expected = alone(tmp_path, records, CALM.model_copy(update={"sharding": "file"}))
            assert_alike(trained(group.finish()), expected)
            models = {(folder / "outputs" / "model" / "model.keras").read_bytes() for folder in group.directories}
            assert len(models) == 1

    def test_an_empty_file(self, tmp_path: Path) -> None:
        """And no validation record for one rank."""
        records = write_shards(tmp_path / "records", (40, 0), (7,))
        parameters = CALM.model_copy(update={"sharding": "file"})
        with started(tmp_path, records, parameters) as group:
            expected = alone(tmp_path, records, parameters)
            assert_alike(trained(group.finish()), expected)

    @pytest.mark.parametrize(
        ("patterns", "message"),
        [
            (("train-*", "val*", "schema.json"), "train-00000-of-00003.tfrecord is on .* whose other files differ"),
            (("train-*-of-00003.json", "val*", "schema.json"), "has no train records, others have: give every host"),
        ],
    )
    def test_refuses_files_that_do_not_go_together(
        self, tmp_path: Path, patterns: tuple[str, ...], message: str
    ) -> None:
        records = write_shards(tmp_path / "records", (20, 20, 20))
        given = records, give(records, tmp_path / "part", *patterns)
        for file in tmp_path.glob("part/train-00001*.tfrecord"):
            file.unlink()
        with started(tmp_path, given, CALM) as group:
            assert group.wait(60) == [2, 2], [group.log(0), group.log(1)]
            for told in group.messages():
                assert re.search(message, told), told
