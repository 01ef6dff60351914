"""Who has which record files, and who reads which: the ranks tell each other what lies beside them.

Hosts may have been given all files, or files of their own, as SageMaker's ShardedByS3Key does; even the counts of a
record file may lie on another host than the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf
from pydantic import BaseModel, Field

from millrace.errors import ConfigError, DataError
from millrace.runtime.records import counts
from millrace.runtime.schemas import (
    CHANNELS,
    VOCABULARY,
    Channel,
    RecordsSchema,
    ShardCounts,
    TextRecords,
    read_json_model,
    read_records_schema,
)
from millrace.runtime.texts import load_vocabulary
from millrace.training.ranks import Ranks
from millrace.training.tensor_parallel_ranks import TensorRanks

__all__ = ["RecordFile", "Stock", "take_stock"]

_CARD = re.compile(r"(?P<channel>[a-z]+)-(?P<index>\d{5,})-of-(?P<total>\d{5,})\.tfrecord")
_MARK_BYTES = 4
"""A record file ends with a checksum of its last record."""
_ADVICE = "give every host the same record files, or each host files of its own"


class RecordFile(NamedTuple):
    """A record file that some rank reads."""

    name: str
    records: int
    mine: bool
    """Whether this rank reads it."""


class Stock(NamedTuple):
    """The records of all ranks together."""

    schema: RecordsSchema
    shards: dict[Channel, tuple[ShardCounts, ...]]
    files: dict[Channel, tuple[RecordFile, ...]] | None
    """By channel, in an order that is the same for any number of ranks; None when every rank has all files and takes
    its part of each step."""


class _Holding(BaseModel):
    """What one rank finds in its folder."""

    records_schema: RecordsSchema | None
    vocabulary: str | None = Field(description="SHA-256 of its file, which texts come with.")
    cards: tuple[ShardCounts, ...]
    marks: dict[str, str] = Field(description="Size and last bytes of each record file, by name.")


def take_stock(records: Path, sharding: Literal["auto", "data", "file"], ranks: Ranks | None) -> Stock:
    """Find the records, here and on all other ranks.

    Raises:
        DataError: When files are missing, or the ranks' files do not go together.
        ConfigError: When ranks that hold one model together have other files than the rest.
    """
    if ranks is None or sharding == "data":
        return _own(records, apart=sharding == "file")
    holding = _held(records)
    if sharding == "auto" and _all_same(ranks, holding):
        return _own(records, apart=False)
    if isinstance(ranks, TensorRanks):
        raise ConfigError(
            f"parallel.tensor={ranks.group.size}, but the hosts were given different record files: the ranks that hold "
            "one model take the same records, so give every host all of them"
        )
    told = [_Holding.model_validate_json(text) for text in _gathered(ranks, holding.model_dump_json().encode())]
    return _together(told, ranks, everybody=sharding == "auto")


def _own(records: Path, *, apart: bool) -> Stock:
    schema = read_records_schema(records)
    if isinstance(schema, TextRecords):
        load_vocabulary(records, schema)  # which the model is saved with
    shards: dict[Channel, tuple[ShardCounts, ...]] = {channel: counts(records, channel) for channel in CHANNELS}
    files: dict[Channel, tuple[RecordFile, ...]] = {
        channel: tuple(RecordFile(card.file, card.records, mine=True) for card in shards[channel])
        for channel in CHANNELS
    }
    return Stock(schema, shards, files if apart else None)


def _held(records: Path) -> _Holding:
    schema = read_records_schema(records) if (records / "schema.json").is_file() else None
    vocabulary = records / VOCABULARY
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest() if vocabulary.is_file() else None
    cards, marks = [], {}
    for channel in CHANNELS:
        for path in sorted(records.glob(f"{channel}-*.tfrecord")):
            marks[path.name] = _mark(path)
        cards += [read_json_model(path, ShardCounts) for path in sorted(records.glob(f"{channel}-*.json"))]
    return _Holding(records_schema=schema, vocabulary=digest, cards=tuple(cards), marks=marks)


def _mark(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _MARK_BYTES))
        return f"{size} {stream.read().hex()}"


def _all_same(ranks: Ranks, holding: _Holding) -> bool:
    digest = hashlib.sha256(holding.model_dump_json().encode()).digest()
    other = ranks.from_first(digest) != digest
    return float(ranks.total([tf.constant(float(other))])[0]) == 0


def _gathered(ranks: Ranks, content: bytes) -> list[bytes]:
    """What each rank gives, on all ranks."""
    sizes = np.zeros(ranks.count, np.int64)
    sizes[ranks.index] = len(content)
    sizes = ranks.total([tf.constant(sizes)])[0].numpy()
    words = np.zeros(-(-len(content) // 4), np.int32)
    words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    every = ranks.joined(tf.constant(words), "holdings").numpy()
    parts = np.split(every, np.cumsum(-(-sizes // 4))[:-1])
    return [part.tobytes()[:size] for part, size in zip(parts, sizes, strict=True)]


def _together(told: Sequence[_Holding], ranks: Ranks, *, everybody: bool) -> Stock:
    names = ranks.names
    schemas = {names[index]: one.records_schema for index, one in enumerate(told) if one.records_schema is not None}
    if not schemas:
        raise DataError(f"none of {', '.join(names)} has the records' schema.json: at least one host needs it")
    (first, schema), *others = schemas.items()
    for name, other in others:
        if other != schema:
            raise DataError(f"schema.json on {name} is not that on {first}: the hosts have records of different runs")
    if isinstance(schema, TextRecords):
        _check_vocabularies(told, names, schema)
    cards = _cards(told, names)
    shards: dict[Channel, tuple[ShardCounts, ...]] = {
        channel: tuple(cards[name] for name in sorted(cards) if cards[name].channel == channel) for channel in CHANNELS
    }
    files: dict[Channel, tuple[RecordFile, ...]] = {}
    for channel, of_channel in shards.items():
        lists = [tuple(card.file for card in of_channel if card.file in one.marks) for one in told]
        if channel == "train" and everybody and (idle := [names[rank] for rank, held in enumerate(lists) if not held]):
            raise DataError(
                f"{', '.join(idle)} has no train records, others have: {_ADVICE}; or set sharding=file, if hosts "
                "without records shall take part"
            )
        readers = _dealt(of_channel, lists, names)
        files[channel] = tuple(
            RecordFile(card.file, card.records, mine=readers[card.file] == ranks.index) for card in of_channel
        )
    return Stock(schema, shards, files)


def _check_vocabularies(told: Sequence[_Holding], names: Sequence[str], schema: TextRecords) -> None:
    for what, wrong in (
        ("no", [name for name, one in zip(names, told, strict=True) if one.vocabulary is None]),
        (
            "another",
            [name for name, one in zip(names, told, strict=True) if one.vocabulary != schema.vocabulary_sha256],
        ),
    ):
        if wrong:
            raise DataError(
                f"{', '.join(wrong)} has {what} {VOCABULARY}, whose SHA-256 is {schema.vocabulary_sha256}: every host "
                "needs it, whatever record files it has"
            )


def _cards(told: Sequence[_Holding], names: Sequence[str]) -> dict[str, ShardCounts]:
    """The counts of all record files, each of which some rank has, and which are all there."""
    cards: dict[str, tuple[ShardCounts, str]] = {}
    marks: dict[str, tuple[str, str]] = {}
    for name, holding in zip(names, told, strict=True):
        for card in holding.cards:
            if cards.setdefault(card.file, (card, name))[0] != card:
                raise DataError(f"{card.file} is another file on {name} than on {cards[card.file][1]}: {_ADVICE}")
        for file, mark in holding.marks.items():
            if marks.setdefault(file, (mark, name))[0] != mark:
                raise DataError(f"{file} is another file on {name} than on {marks[file][1]}: {_ADVICE}")
    for file, (card, name) in cards.items():
        if file not in marks:
            raise DataError(f"no host has {file}, which {name} has the counts of: copy it to one of them")
        size = int(marks[file][0].partition(" ")[0])
        if size != card.bytes:
            raise DataError(f"{file} on {marks[file][1]} has {size} bytes, its counts say {card.bytes}: copy it again")
    if unknown := sorted(set(marks) - set(cards)):
        raise DataError(f"no host has the counts of {unknown[0]}, which {marks[unknown[0]][1]} has: copy its .json")
    _refuse_gaps(cards)
    return {file: card for file, (card, _) in cards.items()}


def _refuse_gaps(files: Collection[str]) -> None:
    for channel in CHANNELS:
        found = [match for file in files if (match := _CARD.fullmatch(file)) and match["channel"] == channel]
        totals = {int(match["total"]) for match in found}
        if len(totals) > 1:
            raise DataError(f"shards of several plans are mixed in channel {channel!r}: of {sorted(totals)}")
        missing = sorted(set(range(max(totals, default=0))) - {int(match["index"]) for match in found})
        if missing:
            raise DataError(
                f"no host has {len(missing)} of {max(totals)} shards of channel {channel!r}: {missing[:10]}"
            )


def _dealt(shards: Sequence[ShardCounts], lists: Sequence[tuple[str, ...]], names: Sequence[str]) -> dict[str, int]:
    """Which rank reads each file: ranks with the same files share them, the largest first to the least laden."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for rank, held in enumerate(lists):
        groups.setdefault(held, []).append(rank)
    holders: dict[str, int] = {}
    for held, (rank, *_) in groups.items():
        for file in held:
            if file in holders:
                raise DataError(
                    f"{file} is on {names[holders[file]]} and on {names[rank]}, whose other files differ: {_ADVICE}"
                )
            holders[file] = rank
    sizes = {card.file: card.records for card in shards}
    readers: dict[str, int] = {}
    for held, group in groups.items():
        load = dict.fromkeys(group, 0)
        for file in sorted(held, key=lambda file: (-sizes[file], file)):
            reader = min(group, key=lambda rank: (load[rank], rank))
            load[reader] += sizes[file]
            readers[file] = reader
    return readers
