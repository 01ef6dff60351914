"""Texts that a shard names: whole files, or a column of tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from millrace.data.rows import LostRows, read_rows
from millrace.errors import DataError
from millrace.runtime.bucket_errors import ChangedError
from millrace.runtime.schemas import ShardPlan
from millrace.runtime.storage import Listed, parse_source, process_many
from millrace.runtime.texts import MAX_CHARACTERS

__all__ = ["TextProblem", "read_texts"]


class TextProblem(NamedTuple):
    """Why there is no text."""

    reason: str
    """missing, changed, not_utf8, empty_text or too_long."""
    detail: str


class _Read(NamedTuple):
    content: str
    text: str | TextProblem


def read_texts(
    objects: pl.DataFrame, column: str, plan: ShardPlan, scratch: Path, concurrency: int = 16
) -> Iterator[tuple[int, str | TextProblem]]:
    """The text of each object, with its place among them; those of tables come file by file.

    Args:
        objects: With `place`, `key`, `row` (null for whole files) and `content`; also `size` and `etag`, where an
            object that was changed shall be noticed of which no content is known.
        column: Of tables.
        plan: What the objects are of.
        scratch: Where copies of tables go.
        concurrency: Files that are read ahead.

    Raises:
        DataError: When a table has no such column.
    """
    objects = objects.with_row_index("at")
    whole = objects.filter(pl.col("row").is_null())
    yield from _of_files(whole, concurrency)
    rows = objects.filter(pl.col("row").is_not_null())
    if rows.height:
        at = rows["at"].to_numpy()
        for found in read_rows(rows, [column], plan, scratch):
            if isinstance(found, LostRows):
                yield from ((int(at[place]), TextProblem(found.reason, found.detail)) for place in found.places)
                continue
            texts = found.frame[column].cast(pl.String)
            for place, text in zip(found.places, texts, strict=True):
                yield int(at[place]), _usable(text, f"the column {column!r}")


def _of_files(objects: pl.DataFrame, concurrency: int) -> Iterator[tuple[int, str | TextProblem]]:
    results: Iterable[tuple[str, _Read | Exception]] = process_many(_items(objects), _read, concurrency=concurrency)
    for at, content, (_, result) in zip(objects["at"], objects["content"], results, strict=True):
        if isinstance(result, DataError):
            yield at, TextProblem("changed" if isinstance(result, ChangedError) else "missing", str(result))
        elif isinstance(result, Exception):
            raise result
        elif content and result.content != content:
            detail = f"its SHA-256 was {content[:12]}... when it was listed and is {result.content[:12]}... now"
            yield at, TextProblem("changed", detail)
        else:
            yield at, result.text


def _items(objects: pl.DataFrame) -> Iterator[str | Listed]:
    """What to read; a store is asked for what was listed where only its etag can tell another."""
    names = ("place", "key", "content", "size", "etag", "version")
    told = objects.select(pl.col(name) if name in objects.columns else pl.lit(None).alias(name) for name in names)
    for place, key, content, size, etag, version in told.iter_rows():
        if content or not etag or size is None or parse_source(place)[0] == "file":
            yield place
        else:
            yield Listed(place, key or "", size, 0, etag, version)


def _read(data: bytes) -> _Read:
    content = hashlib.sha256(data).hexdigest()
    try:
        return _Read(content, _usable(data.decode("utf-8-sig"), "the file"))
    except UnicodeDecodeError as error:
        return _Read(content, TextProblem("not_utf8", f"byte {error.start} is {data[error.start : error.start + 1]!r}"))


def _usable(text: str | None, where: str) -> str | TextProblem:
    if text is None or not text.strip():
        return TextProblem("empty_text", f"{where} is empty")
    if len(text) > MAX_CHARACTERS:
        return TextProblem("too_long", f"the text has {len(text)} characters, the limit is {MAX_CHARACTERS}")
    return text
