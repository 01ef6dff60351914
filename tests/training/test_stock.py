"""What ranks tell each other of their folders, and what of it is refused before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from millrace.components.bert.main import main
from millrace.components.bert.spec import BertParameters
from millrace.errors import ConfigError, DataError, UserError
from millrace.runtime.context import Context, Hosts
from millrace.runtime.schemas import VOCABULARY
from millrace.specs import Records
from millrace.training.parameters import TrainInputs, TrainOutputs
from millrace.training.ranks import Ranks
from millrace.training.shards import Stock, take_stock
from millrace.training.tensor_parallel_ranks import TensorRanks
from tests.components.text_data import write_text_records
from tests.training.shard_data import give, write_shards


class Meeting:
    """Of ranks that are threads."""

    def __init__(self, count: int) -> None:
        self.said: list[Any] = [None] * count
        self.barrier = Barrier(count, timeout=20)


class Threads(Ranks):
    """One of them."""

    def __init__(self, meeting: Meeting, index: int) -> None:
        super().__init__([f"host-{number}" for number in range(len(meeting.said))], index, 20)
        self._meeting = meeting

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        return [
            tf.constant(np.sum(same, axis=0, dtype=same[0].dtype)) for same in zip(*self._all(tensors), strict=True)
        ]

    def joined(self, tensor: Any, name: str) -> Any:
        return tf.concat([parts[0] for parts in self._all([tensor])], 0)

    def ending_together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def leave(self) -> None:
        """Nobody minds."""

    def _all(self, tensors: Sequence[Any]) -> list[list[Any]]:
        self._meeting.said[self.index] = [np.asarray(tensor) for tensor in tensors]
        self._meeting.barrier.wait()
        said = list(self._meeting.said)
        self._meeting.barrier.wait()
        return said


def stocks(*folders: Path, tensor: int = 1) -> list[Stock | UserError]:
    """What each of some ranks makes of its folder and the others'."""
    meeting = Meeting(len(folders))

    def of(index: int) -> Stock | UserError:
        ranks: Ranks = Threads(meeting, index)
        if tensor > 1:
            group = Threads(Meeting(tensor), index % tensor)
            ranks = TensorRanks(ranks, group, Threads(Meeting(len(folders) // tensor), index // tensor))
        try:
            return take_stock(folders[index], "auto", ranks)
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(of, range(len(folders))))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_records(tmp_path_factory.mktemp("texts"))


def halves(texts: Path, folder: Path) -> tuple[Path, Path]:
    """As two hosts may be given it: only the first has schema.json."""
    first = give(texts, folder / "first", "*-00000-*", VOCABULARY, "schema.json")
    return first, give(texts, folder / "second", "*-00001-*", VOCABULARY)


class TestVocabulary:
    def test_may_be_there_without_the_schema(self, tmp_path: Path, texts: Path) -> None:
        one, other = stocks(*halves(texts, tmp_path))
        assert isinstance(one, Stock)
        assert isinstance(other, Stock)
        assert one.schema == other.schema

    @pytest.mark.parametrize(("content", "what"), [(None, "no"), (b"[PAD]\n", "another")])
    def test_is_missed_before_the_first_step(
        self, tmp_path: Path, texts: Path, content: bytes | None, what: str
    ) -> None:
        first, second = halves(texts, tmp_path)
        (second / VOCABULARY).unlink()
        if content is not None:
            (second / VOCABULARY).write_bytes(content)
        for found in stocks(first, second):
            assert isinstance(found, DataError)
            assert str(found).startswith(f"host-1 has {what} vocabulary.txt, whose SHA-256 is ")

    def test_is_missed_by_one_process(self, tmp_path: Path, texts: Path) -> None:
        folder = give(texts, tmp_path / "records", "*.tfrecord", "*.json")
        with pytest.raises(DataError, match=r"vocabulary\.txt: No such file"):
            take_stock(folder, "auto", None)


def test_ranks_that_hold_one_model_are_refused_different_files(tmp_path: Path) -> None:
    records = write_shards(tmp_path / "records", (7, 9))
    parts = [give(records, tmp_path / f"part-{n}", f"*-0000{n}-*", "schema.json") for n in range(2)]
    for found in stocks(parts[0], parts[0], parts[1], parts[1], tensor=2):
        assert isinstance(found, ConfigError)
        assert str(found).startswith("parallel.tensor=2, but the hosts were given different record files")
    assert all(isinstance(found, Stock) for found in stocks(*[records] * 4, tensor=2))


def test_bert_with_schema_on_another_host(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts learn what the records are, and refuse them alike."""
    meeting = Meeting(2)
    monkeypatch.setattr("millrace.training.train._connect", lambda *given: Threads(meeting, given[-1].hosts.index))
    parameters = BertParameters(train_batch_size=16, max_seq_length=64, strategy="multiworker")

    def of(index: int, records: Path) -> str:
        folder = tmp_path / f"host-{index}"
        inputs = TrainInputs(records=Records(location=records))
        outputs = TrainOutputs.model_construct()
        hosts = Hosts(names=("host-0", "host-1"), index=index)
        with pytest.raises(ConfigError) as caught:
            main(parameters, inputs, outputs, Context(scratch=folder, checkpoints=folder, hosts=hosts))
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        for told in pool.map(of, range(2), halves(texts, tmp_path)):
            assert told.startswith("max_seq_length=64, but the records have texts of up to 12 tokens")
