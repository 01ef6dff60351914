"""Token ids, compared with the rules of BERT's own tokenizer as they are published, written down here plainly."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import DataError
from millrace.runtime.schemas import TextRecords
from millrace.runtime.texts import cut as cut_ids
from millrace.runtime.texts import decode, encoder, load_encoder, padded, read_vocabulary

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] hello world hell o un ##aff ##able ##s a b c ##a ##b ##c e i n s ##n ##e ##t wo "
    "##rld ' ! , . - [ ] sep 中 国 \u03c2 \u03c3 \u03bf ##\u03bf ##\u03c2 ##\u03c3 Hello É ##é é ss ß ##ß x ##x 1 ##2 "
    "$ \u2013 n't"
)
WORDS = VOCABULARY.split()
IDS = {word: index for index, word in enumerate(WORDS)}
CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def reference(text: str, lower_case: bool) -> list[int]:
    """Clean, put Chinese characters apart, lower, cut at punctuation, then the longest tokens first."""
    kept = []
    for character in text:
        number = ord(character)
        if number in (0, 0xFFFD) or (character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cf")):
            continue
        space = character in "\t\n\r" or unicodedata.category(character) == "Zs"
        chinese = any(low <= number <= high for low, high in CJK)
        kept.append(" " if space else f" {character} " if chinese else character)
    pieces = [piece for word in "".join(kept).split() for piece in cut(word, lower_case)]
    return [IDS["[CLS]"], *(number for piece in pieces for number in of_word(piece)), IDS["[SEP]"]]


def cut(word: str, lower_case: bool) -> list[str]:
    if lower_case:
        parts = unicodedata.normalize("NFD", word.lower())
        word = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    pieces: list[str] = [""]
    for character in word:
        symbol = character.isascii() and character.isprintable() and not character.isalnum()
        if symbol or unicodedata.category(character).startswith("P"):
            pieces += [character, ""]
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]


def of_word(word: str) -> list[int]:
    if len(word) > 100:
        return [IDS["[UNK]"]]
    found: list[int] = []
    start = 0
    while start < len(word):
        ends = range(len(word), start, -1)
        candidates = (("##" if start else "") + word[start:end] for end in ends)
        token = next((candidate for candidate in candidates if candidate in IDS), None)
        if token is None:
            return [IDS["[UNK]"]]
        found.append(IDS[token])
        start += len(token.removeprefix("##") if start else token)
    return found


HARD = [
    "Hello, world!", "unaffable unaffables", "HÉLLO wörld", "ÀÇÊ", "中国abc中", "a\u200bb\x00c\ufffd a\tb\r\nc",
    "\u00a0a\u3000b", "a" * 100, "a" * 101, "x" * 100_000, "", " \n ", "[SEP] [CLS] [PAD]",
    "\u039f\u03a3 \u039f\u03a3\u039f \u03a3", "İ I \u0131", "straße STRASSE ẞ", "don't!!!", "a\u2013b $1 12",
    "e\u0301 é", "\u0301\u0301", "😀 a😀b", "\U00020000a", "ﬁ ﬀ", "¡a¿b", "`a^b~c", "\x85a\u2028b", "한국어 a",
    "A\x07\u03a3", "a\u03a3\ufffda",
]  # fmt: skip
ALPHABET = "".join(WORDS) + "ÀéÉ\u0301\u0327 \t\u00a0\u200d\x07中国한\u03a3\u03c3ßẞİȘ😀\u2019"


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_ids_are_those_of_the_published_rules(text: str, lower_case: bool) -> None:
    encode = encoder(WORDS, lower_case=lower_case, max_seq_length=200_000, truncation="end")
    assert encode([text]) == [reference(text, lower_case)]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(sorted(set(ALPHABET))), max_size=40), st.booleans())
def test_ids_of_any_text_are_those_of_the_published_rules(text: str, lower_case: bool) -> None:
    encode = encoder(WORDS, lower_case=lower_case, max_seq_length=1000, truncation="end")
    assert encode([text]) == [reference(text, lower_case)]


@pytest.mark.parametrize(("truncation", "kept"), [("end", "a b c"), ("start", "b c hello")])
def test_longer_texts_are_cut_between_their_marks(truncation: str, kept: str) -> None:
    encode = encoder(WORDS, lower_case=True, max_seq_length=5, truncation="end" if truncation == "end" else "start")
    (ids,) = encode(["a b c hello"])
    assert [WORDS[number] for number in ids] == ["[CLS]", *kept.split(), "[SEP]"]
    assert encode(["a b c"])[0][1:-1] == [IDS["a"], IDS["b"], IDS["c"]]


@pytest.mark.parametrize("truncation", ["end", "start"])
def test_cutting_whole_texts_later_is_the_same(truncation: Literal["end", "start"]) -> None:
    texts = ["a b c hello", "a b c", "a b", ""]
    whole = encoder(WORDS, lower_case=True, max_seq_length=None)(texts)
    assert [len(ids) for ids in whole] == [6, 5, 4, 2]
    for size in (3, 4, 5, 6):
        encode = encoder(WORDS, lower_case=True, max_seq_length=size, truncation=truncation)
        assert [cut_ids(ids, size, truncation) for ids in whole] == encode(texts)


def test_decoding_gives_the_words_back() -> None:
    encode = encoder(WORDS, lower_case=True, max_seq_length=20, truncation="end")
    assert decode([*encode(["Hello, unaffables zzz"])[0], 0, 0], WORDS) == "hello , unaffables [UNK]"


class TestVocabularyFile:
    def test_of_a_model_is_loaded_with_its_schema(self, tmp_path: Path) -> None:
        content = "".join(f"{word}\n" for word in WORDS).encode()
        schema = TextRecords(
            max_seq_length=6,
            lower_case=True,
            vocabulary_size=len(WORDS),
            vocabulary_sha256=hashlib.sha256(content).hexdigest(),
            classes=("a", "b"),
        )
        (tmp_path / "vocabulary.txt").write_bytes(content)
        rows = padded(load_encoder(tmp_path, schema)(["hello", "a b c a b c"]), schema)
        assert (str(rows.dtype), rows.tolist()[0]) == ("int32", [2, IDS["hello"], 3, 0, 0, 0])
        (tmp_path / "vocabulary.txt").write_bytes(content + b"more\n")
        with pytest.raises(DataError, match="another vocabulary than the schema's"):
            load_encoder(tmp_path, schema)

    def test_lines_end_at_line_feeds_only(self) -> None:
        content = "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\na\u2028b\r\nc".encode()
        assert read_vocabulary(content, "v")[4:] == ("a\u2028b", "c")

    def test_needs_its_special_tokens(self) -> None:
        with pytest.raises(DataError, match=r"v.txt is not a vocabulary .* lacks \[UNK\], \[SEP\] among its 3 lines"):
            read_vocabulary(b"[PAD]\n[CLS]\na\n", "v.txt")

    def test_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(DataError, match="not UTF-8"):
            read_vocabulary(b"\xff\xfe", "v.txt")
