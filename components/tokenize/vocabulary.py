"""The vocabulary: given, or built from the training texts."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from millrace.components.tokenize.spec import TokenizeParameters
from millrace.errors import DataError
from millrace.runtime.storage import read
from millrace.runtime.texts import SPECIAL, UNK

__all__ = ["build_vocabulary", "given_vocabulary"]

_MOST_CHARACTERS = 1000
_LEAST_COUNT = 2


def given_vocabulary(parameters: TokenizeParameters) -> bytes | None:
    """The file that the parameters name, None when one is to be built.

    Raises:
        DataError: When it is missing or has another digest.
    """
    if parameters.vocabulary is None:
        return None
    content = read(parameters.vocabulary)
    found = hashlib.sha256(content).hexdigest()
    if parameters.sha256 not in (None, found):
        raise DataError(
            f"tokenize.vocabulary={parameters.vocabulary} has SHA-256 {found}, tokenize.sha256 asks for "
            f"{parameters.sha256}"
        )
    return content


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
