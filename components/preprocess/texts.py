"""Texts: whole files, or a column of tables, as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import polars

from millrace.components.preprocess.kinds import in_order
from millrace.components.preprocess.rejects import Reject
from millrace.components.preprocess.spec import PreprocessInputs, PreprocessParameters, TextData
from millrace.data.analysis import read_analysis
from millrace.data.texts import TextProblem, read_texts
from millrace.data.vocabulary import given_vocabulary, text_schema
from millrace.errors import ConfigError
from millrace.runtime.context import Context
from millrace.runtime.records import TextRecord, pack
from millrace.runtime.schemas import VOCABULARY, ShardPlan, TextRecords
from millrace.runtime.texts import UNK, cut, encoder, load_vocabulary, read_vocabulary

__all__ = ["open_texts"]

_BATCH = 1000


def open_texts(parameters: PreprocessParameters, inputs: PreprocessInputs, plan: ShardPlan, context: Context) -> _Texts:
    """Texts as tokens of the vocabulary that is given, or of the one that `analyze` built.

    Raises:
        ConfigError: When there is none, or the analysis was made with other options.
        DataError: When the vocabulary can't be used.
    """
    data = parameters.data
    if not isinstance(data, TextData):
        raise ConfigError(f"preprocess.data.kind {data.kind!r} is not text")
    vocabulary = given_vocabulary(data, "preprocess")
    if inputs.analysis is not None:
        schema = read_analysis(inputs.analysis.path, data, plan.classes, TextRecords)
        load_vocabulary(inputs.analysis.path, schema)
        vocabulary = (inputs.analysis.path / VOCABULARY).read_bytes()
    elif vocabulary is None:
        raise ConfigError(
            "texts need a vocabulary: set preprocess.data.vocabulary to a vocab.txt, or give preprocess the analysis "
            "of analyze, which builds one"
        )
    return _Texts(parameters, data, plan, vocabulary, context)


class _Texts:
    unit = "texts"

    def __init__(
        self, parameters: PreprocessParameters, data: TextData, plan: ShardPlan, vocabulary: bytes, context: Context
    ) -> None:
        self.schema = text_schema(data, plan.classes, vocabulary)
        self.files: Mapping[str, bytes] = {VOCABULARY: vocabulary}
        self._data = data
        self._plan = plan
        self._concurrency = parameters.concurrency
        self._context = context
        tokens = read_vocabulary(vocabulary, data.vocabulary or VOCABULARY)
        self._unknown = tokens.index(UNK)
        self._encode = encoder(tokens, lower_case=data.lower_case, max_seq_length=None)

    def convert(self, rows: polars.DataFrame) -> Iterator[bytes | Reject]:
        """In memory are the records of a shard: rows of tables are read in the order of their files."""
        figures = _Figures()
        yield from in_order(self._made(rows, figures))
        self._context.log.info("%s", figures.told(self.schema.max_seq_length))

    def _made(self, rows: polars.DataFrame, figures: _Figures) -> Iterator[tuple[int, bytes | Reject]]:
        uris, labels = rows["uri"].to_list(), rows["label"].to_list()
        read = read_texts(rows, self._data.column, self._plan, self._context.scratch, self._concurrency)
        while batch := list(islice(read, _BATCH)):
            yield from self._batch(batch, uris, labels, figures)

    def _batch(
        self,
        batch: Iterable[tuple[int, str | TextProblem]],
        uris: list[str],
        labels: list[int],
        figures: _Figures,
    ) -> Iterator[tuple[int, bytes | Reject]]:
        texts: list[tuple[int, str]] = []
        for at, text in batch:
            if isinstance(text, TextProblem):
                yield at, Reject(uris[at], text.reason, text.detail)
            else:
                texts.append((at, text))
        for (at, _), whole in zip(texts, self._encode([text for _, text in texts]), strict=True):
            ids = cut(whole, self.schema.max_seq_length, self.schema.truncation)
            figures.count(ids, whole, self._unknown)
            yield at, pack(TextRecord(ids, labels[at], uris[at]))


class _Figures:
    """What the vocabulary and the length made of a shard's texts."""

    def __init__(self) -> None:
        self._texts = self._longer = self._tokens = self._unknown = 0

    def count(self, ids: list[int], whole: list[int], unknown: int) -> None:
        self._texts += 1
        self._longer += len(ids) < len(whole)
        self._tokens += len(ids)
        self._unknown += ids.count(unknown)

    def told(self, longest: int) -> str:
        texts, tokens = max(self._texts, 1), max(self._tokens, 1)
        return (
            f"{self._texts} texts: {self._longer / texts:.2%} had more than {longest} tokens and were cut, "
            f"{self._unknown / tokens:.2%} of the tokens are [UNK]"
        )
