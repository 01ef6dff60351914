"""Small text records for tests of training and serving: short sentences, each class with words of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from millrace.runtime.records import TextRecord
from millrace.runtime.schemas import VOCABULARY, TextRecords
from millrace.testing import write_records
from tests.records import Sizes, numbered

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
    folder: Path, *, train: Sizes = (30, 20, 14), validation: Sizes = (6, 6, 6), test: Sizes = (6, 6, 6)
) -> Path:
    """A Records artifact with that many texts of each class, in two shards a channel."""
    write_records(
        folder,
        text_schema(),
        {
            channel: [
                [
                    TextRecord(
                        tokens(sentence(label, number)), label, f"file:///{channel}.csv#row={label * 1000 + number}"
                    )
                    for label, number in file
                ]
                for file in files
            ]
            for channel, files in numbered(train, validation, test).items()
        },
    )
    (folder / VOCABULARY).write_bytes(vocabulary())
    return folder
