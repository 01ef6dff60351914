"""Read every object once: its SHA-256, and whether its content is a picture or a text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from millrace.components.manifest.earlier import ASIDE, Known
from millrace.components.manifest.hashes import hash_digests
from millrace.components.manifest.objects import Objects
from millrace.components.manifest.parts import Parts
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.components.manifest.survey import KEPT
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.storage import Listed, process_many

__all__ = ["read_contents"]

_READ = {"content": pl.String(), "size": pl.Int64(), "reason": pl.String(), "detail": pl.String()}


class _Content(NamedTuple):
    digest: str | None
    size: int
    reason: str | None = None
    detail: str | None = None


def read_contents(
    objects: Objects,
    known: Known | None,
    parameters: ManifestParameters,
    rejected: Rejected,
    aside: Parts,
    context: Context,
) -> Objects:
    """Find the contents of all objects, and set aside what is of another type and what changed since it was listed.

    Args:
        objects: What was listed.
        known: What an earlier manifest knows of them: those that have not changed since are not read.
        parameters: Formats, and how many are read at a time.
        rejected: Takes what is set aside.
        aside: Takes what a later manifest need not read again.
        context: For progress.

    Returns:
        The objects with `content`, and on disk with a column of digests.
    """
    told = known.same & known.earlier.comparable if known is not None else np.zeros(len(objects), np.bool_)
    wanted = objects.inside & ~told
    total, done = int(wanted.sum()), 0
    parts = Parts(context.scratch / "contents")
    look = partial(_look, formats=parameters.formats)
    found = process_many(_items(objects.parts, wanted), look, concurrency=parameters.concurrency)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # pixels are not decoded here
        for start, rows in objects.parts.frames(tuple(KEPT)):
            here = slice(start, start + rows.height)
            contents: list[_Content] = []
            for _, content in islice(found, int(wanted[here].sum())):
                contents.append(_judged(content))
                done += 1
                context.progress(done, total, "objects read")
            read = pl.DataFrame(contents, schema=_READ, orient="row").with_columns(
                at=pl.Series(np.flatnonzero(wanted[here]), dtype=pl.Int64)
            )
            if known is not None:
                read = pl.concat([read, _remembered(known, objects.inside & told, here)]).sort("at")
            _take(objects, rows, read, start, rejected, aside, parts)
    return replace(objects, parts=parts)


def _items(parts: Parts, wanted: NDArray[np.bool_]) -> Iterator[Listed | str]:
    for start, rows in parts.frames(("place", "key", "size", "modified", "etag", "version")):
        for row in rows.filter(wanted[start : start + rows.height]).iter_rows():
            yield row[0] if row[2] is None else Listed(*row)


def _take(
    objects: Objects,
    rows: pl.DataFrame,
    read: pl.DataFrame,
    start: int,
    rejected: Rejected,
    aside: Parts,
    parts: Parts,
) -> None:
    """Keep what was found in one part."""
    at = read["at"].to_numpy()
    objects.content[start + at] = hash_digests(read["content"])
    bad = read.filter(pl.col("reason").is_not_null())
    if bad.height:
        objects.inside[start + bad["at"].to_numpy()] = False
        told = rows[bad["at"].to_numpy()].with_columns(bad["content", "reason", "detail"])
        rejected.add(told)
        told = told.filter(pl.col("content").is_not_null()).with_columns(
            pl.lit(None, kind).alias(name) for name, kind in ASIDE.items() if name not in told.columns
        )
        if told.height:
            aside.add(told.select(*ASIDE))
    whole = pl.DataFrame({"at": np.arange(rows.height)}).join(read, on="at", how="left", maintain_order="left")
    size = pl.coalesce(pl.col("size"), whole["size"])
    parts.add(rows.with_columns(whole["content"], size))


def _remembered(known: Known, told: NDArray[np.bool_], here: slice) -> pl.DataFrame:
    """What an earlier manifest says of the objects of a part that have not changed."""
    at = np.flatnonzero(told[here])
    positions, back = np.unique(known.before[here][at], return_inverse=True)
    rows = known.earlier.parts.pick(positions, tuple(_READ))
    if rows.is_empty():
        return pl.DataFrame(schema={**_READ, "at": pl.Int64()})
    return rows[back].with_columns(at=pl.Series(at, dtype=pl.Int64))


def _judged(content: _Content | Exception) -> _Content:
    if isinstance(content, DataError):
        return _Content(None, 0, "changed", str(content))
    if isinstance(content, Exception):
        raise content
    return content


def _look(data: bytes, formats: tuple[str, ...]) -> _Content:
    problem = _problem(data, formats) if formats else ""
    digest = hashlib.sha256(data).hexdigest()
    return _Content(digest, len(data), "wrong_type", problem) if problem else _Content(digest, len(data))


def _problem(data: bytes, formats: tuple[str, ...]) -> str:
    """Why the content is of none of the formats."""
    pictures = tuple(name.upper() for name in formats if name != "text")
    no_text = _no_text(data) if "text" in formats else ""
    if "text" in formats and (not no_text or not pictures):
        return no_text
    try:
        Image.open(BytesIO(data), formats=pictures).close()
    except Image.DecompressionBombError:
        return ""  # a picture; its size is judged where it is decoded
    except Exception:  # Pillow's parsers raise many things on bad headers
        begun = next((name for name in pictures if name in Image.OPEN and _begins_as(name, data)), None)
        if begun is not None:
            return f"it begins as {begun}, but its header is broken or cut off"
        return f"not {', '.join(pictures)} by content; it begins with {data[:12]!r}"
    return ""


def _no_text(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not a text in UTF-8: byte {error.start} is {data[error.start : error.start + 1]!r}"
    zero = data.find(b"\0")
    return f"not a text: byte {zero} is 0, as in binary files and UTF-16" if zero >= 0 else ""


def _begins_as(name: str, data: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(data[:16]) is True
