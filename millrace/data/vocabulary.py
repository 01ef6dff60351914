"""The vocabulary: given, or built from the training texts."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from millrace.data.options import TextData
from millrace.errors import DataError
from millrace.runtime.schemas import TextRecords
from millrace.runtime.storage import read
from millrace.runtime.texts import PAD, SPECIAL, UNK, read_vocabulary

__all__ = ["build_vocabulary", "given_vocabulary", "text_schema"]

_MOST_CHARACTERS = 1000
_LEAST_COUNT = 2


def given_vocabulary(data: TextData, task: str) -> bytes | None:
    """The file that the options name, None when one is to be built.

    Args:
        data: What texts are.
        task: Whose options they are, for messages.

    Raises:
        DataError: When it is missing or has another digest.
    """
    if data.vocabulary is None:
        return None
    content = read(data.vocabulary)
    found = hashlib.sha256(content).hexdigest()
    if data.sha256 not in (None, found):
        raise DataError(
            f"{task}.data.vocabulary={data.vocabulary} has SHA-256 {found}, {task}.data.sha256 asks for {data.sha256}"
        )
    return content


def text_schema(data: TextData, classes: tuple[str, ...], vocabulary: bytes) -> TextRecords:
    """What records of texts with this vocabulary hold.

    Raises:
        DataError: When it is no vocabulary.
    """
    tokens = read_vocabulary(vocabulary, data.vocabulary or "the vocabulary that was built")
    return TextRecords(
        max_seq_length=data.max_seq_length,
        lower_case=data.lower_case,
        truncation=data.truncation,
        vocabulary_size=len(tokens),
        vocabulary_sha256=hashlib.sha256(vocabulary).hexdigest(),
        pad_id=tokens.index(PAD),
        classes=classes,
    )


def build_vocabulary(texts: Callable[[], Iterable[str]], size: int, *, lower_case: bool) -> bytes:
    """A `vocab.txt` of the most frequent pieces of words, the same bytes for the same texts.

    Pieces are merged as in Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword
    Units, ACL 2016.

    Args:
        texts: Gives all texts, each time it is called.
        size: Most tokens.
        lower_case: Whether capitals and accents are removed.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(WordPiece({}, unk_token=UNK))
    tokenizer.normalizer = BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    characters: Counter[str] = Counter()
    for text in _lowered(texts(), lower_case):
        characters.update(tokenizer.normalizer.normalize_str(text))
    # Given as special tokens, since the trainer itself would number them in an order that differs each time,
    # and break ties by these numbers.
    first = (*SPECIAL, "[MASK]", *_alphabet(characters, (size - len(SPECIAL) - 1) // 2))
    trainer = WordPieceTrainer(
        vocab_size=size, min_frequency=_LEAST_COUNT, special_tokens=list(first), show_progress=False
    )
    tokenizer.train_from_iterator(_lowered(texts(), lower_case), trainer)
    ids: dict[str, int] = tokenizer.get_vocab()
    return "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)).encode()


def _lowered(texts: Iterable[str], lower_case: bool) -> Iterator[str]:
    return (text.lower() if lower_case else text for text in texts)  # as the encoder does


def _alphabet(characters: Counter[str], room: int) -> tuple[str, ...]:
    """Single characters, then those that may also go on with a word."""
    known = [character for character in characters if not character.isspace()]
    known = sorted(known, key=lambda character: (-characters[character], character))[: min(room, _MOST_CHARACTERS)]
    within = (character for character in sorted(known) if unicodedata.category(character)[0] not in "PS")
    return (*sorted(known), *(f"##{character}" for character in within))
