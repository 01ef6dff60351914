"""Small text records for tests of training and serving: short sentences, each class with words of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from millrace.runtime.records import RecordWriter, TextRecord, pack
from millrace.runtime.schemas import VOCABULARY, Channel, ShardCounts, TextRecords

CLASSES = ("card", "transfer", "weather")
TELLING = (("card", "lost", "stolen", "pin"), ("transfer", "send", "money", "abroad"), ("rain", "sun", "snow", "wind"))
"""Words of each class."""
COMMON = ("my", "is", "the", "please", "when", "why", "a", "it", "?", "today", "i", "do", "not", "know")
"""Words of all classes."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *COMMON, *(word for words in TELLING for word in words), "##s", "##ing")
"""The vocabulary: a token's id is its place."""
LENGTH = 12
"""Most tokens of a record."""


def sentence(label: int, number: int) -> str:
    """A sentence of two words that tell its class among two to six that do not."""
    random = np.random.default_rng([label, number])
    words = [*random.choice(TELLING[label], 2), *random.choice(COMMON, random.integers(2, 7))]
    return " ".join(random.permutation(words))


def tokens(text: str) -> list[int]:
    """Ids of a sentence whose words are all in the vocabulary."""
    words = ["[CLS]", *text.split(), "[SEP]"]
    return [WORDS.index(word) for word in words]


def text_schema() -> TextRecords:
    """The schema of these records."""
    return TextRecords(
        max_seq_length=LENGTH,
        lower_case=True,
        vocabulary_size=len(WORDS),
        vocabulary_sha256=hashlib.sha256(vocabulary()).hexdigest(),
        classes=CLASSES,
    )


def vocabulary() -> bytes:
    """`vocabulary.txt`."""
    return "".join(f"{word}\n" for word in WORDS).encode()


def write_text_records(
    folder: Path,
    *,
    train: tuple[int, int, int] = (30, 20, 14),
    validation: tuple[int, int, int] = (6, 6, 6),
    test: tuple[int, int, int] = (6, 6, 6),
) -> Path:
    """A Records artifact with that many texts of each class, in two shards a channel."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(text_schema().model_dump_json())
    (folder / VOCABULARY).write_bytes(vocabulary())
    sizes: dict[Channel, tuple[int, int, int]] = {"train": train, "validation": validation, "test": test}
    first = 0
    for channel, of_class in sizes.items():
        items = [(label, first + number) for label, size in enumerate(of_class) for number in range(size)]
        first += max(of_class)
        for shard in range(2 if items else 0):
            _write_shard(folder, channel, shard, items[shard::2])
    return folder


def _write_shard(folder: Path, channel: Channel, shard: int, items: list[tuple[int, int]]) -> None:
    name = f"{channel}-{shard:05d}-of-00002"
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for label, number in items:
            uri = f"file:///{channel}.csv#row={label * 1000 + number}"
            writer.write(pack(TextRecord(tokens(sentence(label, number)), label, uri)))
    counts = ShardCounts(
        file=f"{name}.tfrecord",
        channel=channel,
        records=len(items),
        bytes=writer.bytes,
        by_class={kind: sum(label == index for label, _ in items) for index, kind in enumerate(CLASSES)},
    )
    (folder / f"{name}.json").write_text(counts.model_dump_json())
