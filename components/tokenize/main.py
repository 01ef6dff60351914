"""Read, divide, tokenize, write: the tables are read once for each, so that no more than a batch is in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.tokenize.channels import LEAK, OPEN, divide, key_of
from millrace.components.tokenize.spec import TokenizeInputs, TokenizeOutputs, TokenizeParameters
from millrace.components.tokenize.tables import Table, find_tables, read_table
from millrace.components.tokenize.vocabulary import build_vocabulary, given_vocabulary
from millrace.errors import DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.records import RecordWriter, TextRecord, pack
from millrace.runtime.schemas import CHANNELS, VOCABULARY, Channel, ShardCounts, TextRecords
from millrace.runtime.task import write_atomically
from millrace.runtime.texts import MAX_CHARACTERS, PAD, UNK, cut, encoder, read_vocabulary

__all__ = ["main"]

_BATCH = 1000
_SHOWN = 5
_NO_CLASS = -1
_REJECTED = -3  # a channel, beside OPEN and LEAK


class _Reject(NamedTuple):
    uri: str
    reason: str
    detail: str


class _Rows(NamedTuple):
    """What is known of all rows of all tables, in their order."""

    keys: NDArray[np.uint64]
    labels: NDArray[np.int32]
    channels: NDArray[np.int8]
    classes: tuple[str, ...]


def main(parameters: TokenizeParameters, inputs: TokenizeInputs, outputs: TokenizeOutputs, context: Context) -> Result:
    """Make record files of the texts.

    Raises:
        ConfigError: When there is no source.
        DataError: When the tables or the vocabulary can't be used, or too many rows can't.
    """
    given = given_vocabulary(parameters)
    tables = find_tables(parameters, inputs, context.scratch)
    rejects: list[_Reject] = []
    rows = _survey(tables, parameters, rejects, context)
    rejected = len(rejects)
    rows = _divided(rows, tables, parameters, rejects, context)
    if given is None:
        training = CHANNELS.index("train")
        given = build_vocabulary(
            lambda: (text for _, row, text in _texts(tables, parameters, rows) if rows.channels[row] == training),
            parameters.vocabulary_size,
            lower_case=parameters.lower_case,
        )
    schema, vocabulary = _schema(parameters, rows.classes, given)
    folder = outputs.records.path
    (folder / VOCABULARY).write_bytes(given)
    write_atomically(folder / "schema.json", schema.model_dump_json(indent=2) + "\n")
    figures = _write(folder, tables, parameters, rows, vocabulary, context)
    table = pl.DataFrame(rejects, schema=dict.fromkeys(_Reject._fields, pl.String), orient="row")
    table.write_parquet(outputs.rejects.path / "rejects.parquet", compression="zstd")
    taken = rows.keys[rows.channels >= 0]
    sizes: dict[str, float] = {name: int((rows.channels == at).sum()) for at, name in enumerate(CHANNELS)}
    context.log.info("%d texts of %d classes: %s; %d tokens", len(taken), len(rows.classes), sizes, len(vocabulary))
    return Result(
        metrics={
            "texts": len(taken),
            "classes": len(rows.classes),
            "rejected": rejected,
            "leaks": len(rejects) - rejected,
            "duplicates": len(taken) - len(np.unique(taken)),
            **figures,
            **sizes,
        }
    )


def _survey(tables: list[Table], parameters: TokenizeParameters, rejects: list[_Reject], context: Context) -> _Rows:
    """Read all tables once: which rows can be used, and what channels and classes they have.

    Raises:
        DataError: When too many can't be used, or fewer than two classes are left.
    """
    codes: dict[str, int] = {name: code for code, name in enumerate(parameters.classes or ())}
    keys: list[NDArray[np.uint64]] = []
    labels: list[NDArray[np.int32]] = []
    channels: list[NDArray[np.int8]] = []
    total = 0
    for table in tables:
        place = OPEN if table.channel is None else CHANNELS.index(table.channel)
        start = total
        for batch in read_table(table, parameters.text, parameters.label):
            first = total - start
            judged = [_judge(text, label, codes, parameters) for text, label in batch.iter_rows()]
            for row, (_, _, reason, detail) in enumerate(judged, start=first):
                if reason:
                    context.log.warning("rejected %s#row=%d: %s: %s", table.uri, row, reason, detail)
                    rejects.append(_Reject(f"{table.uri}#row={row}", reason, detail))
            keys.append(np.array([key for key, *_ in judged], np.uint64))
            labels.append(np.array([code for _, code, *_ in judged], np.int32))
            channels.append(np.where(labels[-1] < 0, _REJECTED, place).astype(np.int8))
            total += batch.height
            context.progress(total, None, "texts read")
    _check_rejects(rejects, total, parameters.max_error_rate)
    if len(codes) < 2:
        raise DataError(
            f"there is only one class, {next(iter(codes))!r}: at least 2 are needed in {parameters.label!r}"
        )
    names = parameters.classes or tuple(sorted(codes))
    numbers = np.array([names.index(name) for name in codes] + [_NO_CLASS], np.int32)  # the last is for index -1
    return _Rows(np.concatenate(keys), numbers[np.concatenate(labels)], np.concatenate(channels), names)


def _judge(
    text: str | None, label: str | None, codes: dict[str, int], parameters: TokenizeParameters
) -> tuple[int, int, str, str]:
    """Key and class of a row, or why it can't be used."""
    if text is None or not text.strip():
        return 0, _NO_CLASS, "empty_text", f"the column {parameters.text!r} is empty"
    if len(text) > MAX_CHARACTERS:
        return 0, _NO_CLASS, "too_long", f"the text has {len(text)} characters, the limit is {MAX_CHARACTERS}"
    if label is None or not label.strip():
        return 0, _NO_CLASS, "no_label", f"the column {parameters.label!r} is empty"
    name = label.strip()
    if parameters.classes is not None and name not in codes:
        return 0, _NO_CLASS, "unknown_label", f"label {name[:100]!r} is none of tokenize.classes"
    code = codes.setdefault(name, len(codes))
    return key_of(text.lower() if parameters.lower_case else text, parameters.split.seed), code, "", ""


def _check_rejects(rejects: list[_Reject], total: int, rate: float) -> None:
    if not total:
        raise DataError("the tables have no rows")
    allowed = ceil(rate * total - 1e-9)  # 0.1 * 30 is a little more than 3
    if len(rejects) <= allowed and len(rejects) < total:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in rejects).most_common())
    first = "\n".join(f"  {one.uri}: {one.reason}: {one.detail}" for one in rejects[:_SHOWN])
    raise DataError(
        f"{len(rejects)} of {total} rows were rejected ({reasons}); max_error_rate={rate:g} allows {allowed}. Mend or "
        f"remove them, or set tokenize.max_error_rate higher. The log names each; the first:\n{first}"
    )


def _divided(
    rows: _Rows, tables: list[Table], parameters: TokenizeParameters, rejects: list[_Reject], context: Context
) -> _Rows:
    """The rows with their final channels; texts that are in a channel above are set aside."""
    usable = rows.channels != _REJECTED
    channels = rows.channels.copy()
    channels[usable] = divide(
        rows.keys[usable], rows.labels[usable], rows.channels[usable], rows.classes, parameters.split
    )
    divided = rows._replace(channels=channels)
    leaks = 0
    if (channels == LEAK).any():
        for uri, row, _ in _texts(tables, parameters, divided, of=LEAK):
            rejects.append(_Reject(uri, "leak", "its text is also in a file of another channel, where it counts"))
            leaks += channels[row] == LEAK
        context.log.warning("%d rows are left out: their texts are also in files of another channel", leaks)
    return divided


def _texts(
    tables: list[Table], parameters: TokenizeParameters, rows: _Rows, of: int | None = None
) -> Iterator[tuple[str, int, str]]:
    """URI, place among all rows and text of the rows of a channel, of all channels when None."""
    place = 0
    for table in tables:
        start = place
        for batch in read_table(table, parameters.text, parameters.label):
            taken = rows.channels[place : place + batch.height]
            for at in np.flatnonzero(taken >= 0 if of is None else taken == of).tolist():
                yield f"{table.uri}#row={place - start + at}", place + at, batch["text"][at]
            place += batch.height


def _schema(
    parameters: TokenizeParameters, classes: tuple[str, ...], vocabulary: bytes
) -> tuple[TextRecords, tuple[str, ...]]:
    tokens = read_vocabulary(vocabulary, parameters.vocabulary or "the vocabulary that was built")
    schema = TextRecords(
        max_seq_length=parameters.max_seq_length,
        lower_case=parameters.lower_case,
        truncation=parameters.truncation,
        vocabulary_size=len(tokens),
        vocabulary_sha256=hashlib.sha256(vocabulary).hexdigest(),
        pad_id=tokens.index(PAD),
        classes=classes,
    )
    return schema, tokens


class _Shard:
    """A record file that is written, and what is in it."""

    def __init__(self, folder: Path, channel: Channel, index: int, count: int) -> None:
        self.name = f"{channel}-{index:05d}-of-{count:05d}"
        self.channel: Channel = channel
        self.writer = RecordWriter(folder / f"{self.name}.tfrecord")
        self.labels: Counter[int] = Counter()

    def counts(self, classes: tuple[str, ...]) -> ShardCounts:
        return ShardCounts(
            file=f"{self.name}.tfrecord",
            channel=self.channel,
            records=self.writer.records,
            bytes=self.writer.bytes,
            by_class={classes[label]: self.labels[label] for label in sorted(self.labels)},
        )


def _write(
    folder: Path,
    tables: list[Table],
    parameters: TokenizeParameters,
    rows: _Rows,
    vocabulary: tuple[str, ...],
    context: Context,
) -> dict[str, float]:
    """Write the record files, each text to the next one of its channel; the figures about tokens."""
    encode = encoder(vocabulary, lower_case=parameters.lower_case, max_seq_length=None)
    unknown = vocabulary.index(UNK)
    done = longer = tokens = unknowns = 0
    total = int((rows.channels >= 0).sum())
    with ExitStack() as stack:
        shards: list[list[_Shard]] = []
        for at, channel in enumerate(CHANNELS):
            count = min(parameters.shards, int((rows.channels == at).sum()))
            shards.append([_Shard(folder, channel, index, count) for index in range(count)])
            for shard in shards[-1]:
                stack.enter_context(shard.writer)
        dealt = [0] * len(CHANNELS)
        texts = _texts(tables, parameters, rows)
        while batch := list(islice(texts, _BATCH)):
            for (uri, row, _), whole in zip(batch, encode([text for _, _, text in batch]), strict=True):
                ids = cut(whole, parameters.max_seq_length, parameters.truncation)
                at, label = int(rows.channels[row]), int(rows.labels[row])
                shard = shards[at][dealt[at] % len(shards[at])]
                dealt[at] += 1
                shard.writer.write(pack(TextRecord(ids, label, uri)))
                shard.labels[label] += 1
                longer += len(ids) < len(whole)
                tokens += len(ids)
                unknowns += ids.count(unknown)
            done += len(batch)
            context.progress(done, total, "texts written")
    for shard in (shard for of_channel in shards for shard in of_channel):
        write_atomically(folder / f"{shard.name}.json", shard.counts(rows.classes).model_dump_json(indent=2) + "\n")
    return {"truncated": longer / total, "unknown": unknowns / tokens}
