"""Read every object once: its SHA-256, and whether its content is a picture."""

from __future__ import annotations

import hashlib
import warnings
from functools import partial
from io import BytesIO
from typing import NamedTuple

import polars as pl
from PIL import Image

from millrace.components.manifest.rows import Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.storage import Listed, process_many

__all__ = ["read_contents"]


class _Content(NamedTuple):
    digest: str
    problem: str = ""


def read_contents(
    rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected, context: Context
) -> pl.DataFrame:
    """Add `content` (SHA-256 as hex) and set aside what is no picture and what changed since it was listed.

    Only digests are kept: memory does not grow with the size of the objects.
    """
    listed = rows.with_columns(uri="place").select(Listed._fields)
    items = (Listed(*row) for row in listed.iter_rows())
    digests: list[str | None] = []
    reasons: list[str | None] = []
    details: list[str | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # pixels are not decoded here
        look = partial(_look, formats=tuple(name.upper() for name in parameters.formats))
        for _, found in process_many(items, look, concurrency=parameters.concurrency):
            if isinstance(found, DataError):
                found = _Content("", str(found))
            elif isinstance(found, Exception):
                raise found
            digests.append(found.digest or None)
            reasons.append(None if not found.problem else "wrong_type" if found.digest else "changed")
            details.append(found.problem or None)
            context.progress(len(digests), rows.height, "objects read")
    columns = {"content": digests, "reason": reasons, "detail": details}
    rows = rows.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in columns.items())
    rejected.add(rows.filter(pl.col("reason").is_not_null()))
    return rows.filter(pl.col("reason").is_null()).drop("reason", "detail")


def _look(data: bytes, formats: tuple[str, ...]) -> _Content:
    return _Content(hashlib.sha256(data).hexdigest(), _problem(data, formats) if formats else "")


def _problem(data: bytes, formats: tuple[str, ...]) -> str:
    try:
        Image.open(BytesIO(data), formats=formats).close()
    except Image.DecompressionBombError:
        return ""  # a picture; its size is judged where it is decoded
    except Exception:  # Pillow's parsers raise many things on bad headers
        begun = next((name for name in formats if name in Image.OPEN and _begins_as(name, data)), None)
        if begun is not None:
            return f"it begins as {begun}, but its header is broken or cut off"
        return f"not {', '.join(formats)} by content; it begins with {data[:12]!r}"
    return ""


def _begins_as(name: str, data: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(data[:16]) is True
