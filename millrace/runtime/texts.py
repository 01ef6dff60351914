"""From any text to the token ids that a model sees, and back; the same for records and for serving.

Tokens are those of BERT: [Devlin et al. 2019](https://arxiv.org/abs/1810.04805), and WordPiece as in
[Wu et al. 2016](https://arxiv.org/abs/1609.08144): the longest token of the vocabulary first.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.schemas import VOCABULARY, TextRecords

__all__ = [
    "MAX_CHARACTERS",
    "PAD",
    "SPECIAL",
    "UNK",
    "Encoder",
    "cut",
    "decode",
    "encoder",
    "load_encoder",
    "load_vocabulary",
    "padded",
    "read_vocabulary",
]

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNK, CLS, SEP)
"""Tokens that every vocabulary has."""

MAX_CHARACTERS = 100_000
"""Of one text: a longer one is refused, in tables and in requests; models read a fiftieth of it at most."""

Encoder = Callable[[Sequence[str]], list[list[int]]]
"""Texts to token ids, `[CLS] ... [SEP]` each, cut to the longest allowed and not padded. Threads may share it."""

_LONGEST_WORD = 100  # characters; longer ones are one [UNK]


def read_vocabulary(content: bytes, source: str) -> tuple[str, ...]:
    """The tokens of a `vocab.txt`: one a line, the id is the line's number from 0.

    Args:
        content: Of the file.
        source: Its name, for messages.

    Raises:
        DataError: When it is not UTF-8, or lacks a token that every vocabulary has.
    """
    try:
        lines = content.decode().removesuffix("\n").split("\n")  # not splitlines: other separators may be tokens
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not a vocabulary: it is not UTF-8: {error}") from error
    tokens = tuple(line.strip() for line in lines)
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        raise DataError(
            f"{source} is not a vocabulary of WordPiece: it lacks {', '.join(missing)} among its {len(tokens)} lines; "
            "a vocab.txt of BERT has one token a line"
        )
    return tokens


def encoder(
    vocabulary: Sequence[str],
    *,
    lower_case: bool,
    max_seq_length: int | None,
    truncation: Literal["end", "start"] = "end",
) -> Encoder:
    """What makes texts token ids, as BERT's own tokenizer does.

    Control characters go, Chinese characters and punctuation stand alone, accents and capitals go when
    `lower_case` is set, words of more than 100 characters are unknown. Special tokens are never taken from
    a text: `[SEP]` written in one is three words.

    Args:
        vocabulary: Tokens; the id is the place.
        lower_case: Whether capitals and accents are removed.
        max_seq_length: Most tokens of a text, `[CLS]` and `[SEP]` included; None leaves it as long as it is.
        truncation: What is left out of a longer one: its end or its start.
    """
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = _tokenizer(ids, lower_case)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        given = [_lowered(text) for text in texts] if lower_case else list(texts)
        whole = ([ids[CLS], *one.ids, ids[SEP]] for one in tokenizer.encode_batch_fast(given))
        return [one if max_seq_length is None else cut(one, max_seq_length, truncation) for one in whole]

    return encode


def cut(ids: list[int], max_seq_length: int, truncation: Literal["end", "start"]) -> list[int]:
    """Token ids `[CLS] ... [SEP]` of a text, without its end or its start when there are more than allowed."""
    if len(ids) <= max_seq_length:
        return ids
    if truncation == "end":
        return [*ids[: max_seq_length - 1], ids[-1]]
    return [ids[0], *ids[1 - max_seq_length :]]


def load_vocabulary(folder: Path, schema: TextRecords) -> tuple[str, ...]:
    """The vocabulary of a Records or Model artifact.

    Raises:
        DataError: When it is missing or is not the one that the schema names.
    """
    path = folder / VOCABULARY
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != schema.vocabulary_sha256:
        raise DataError(
            f"{path} is another vocabulary than the schema's: its SHA-256 is {found}, not {schema.vocabulary_sha256}"
        )
    return read_vocabulary(content, str(path))


def load_encoder(folder: Path, schema: TextRecords) -> Encoder:
    """The encoder of a Records or Model artifact.

    Raises:
        DataError: When its vocabulary is missing or is not the one that its schema names.
    """
    return encoder(
        load_vocabulary(folder, schema),
        lower_case=schema.lower_case,
        max_seq_length=schema.max_seq_length,
        truncation=schema.truncation,
    )


def padded(ids: Sequence[Sequence[int]], schema: TextRecords) -> NDArray[np.int32]:
    """Token ids as a model takes them, int32 [N, max_seq_length]."""
    rows = np.full((len(ids), schema.max_seq_length), schema.pad_id, np.int32)
    for row, one in zip(rows, ids, strict=True):
        row[: len(one)] = one
    return rows


def decode(ids: Iterable[int], vocabulary: Sequence[str]) -> str:
    """The text of token ids, as far as they tell it: capitals, accents, spaces and unknown words are gone."""
    tokens = (vocabulary[index] if 0 <= index < len(vocabulary) else UNK for index in ids)
    words = " ".join(token for token in tokens if token not in (PAD, CLS, SEP))
    return words.replace(" ##", "")


def _lowered(text: str) -> str:
    """With the Greek letter at a word's end, as BERT's own tokenizer has it; that of Rust does not know it."""
    if "Σ" in text:  # control characters, which go later, end no word
        text = "".join(one for one in text if one in "\t\n\r" or unicodedata.category(one) != "Cc")
        text = text.replace("\ufffd", "")
    return text.lower()


def _tokenizer(ids: dict[str, int], lower_case: bool) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer = Tokenizer(WordPiece(ids, unk_token=UNK, max_input_chars_per_word=_LONGEST_WORD))
    tokenizer.normalizer = BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer
