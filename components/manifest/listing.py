"""List a source and set aside what is junk by its name or size."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from millrace.components.manifest.rows import LISTED, Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.errors import DataError
from millrace.runtime.context import Context
from millrace.runtime.storage import list_objects, parse_source

__all__ = ["Source", "list_source"]

_BATCH = 50_000
_SYSTEM_FILES = r"(?i)(^|/)(\.ds_store|thumbs\.db|ehthumbs\.db|desktop\.ini|\._[^/]*|__macosx/.*)$"


@dataclass(frozen=True)
class Source:
    """What is listed, and how others know it."""

    place: str
    """Path or URI from which it is read here."""
    uri: str = ""
    """Of a dataset that an earlier task made: where other machines have it, if anywhere."""
    dataset: bool = False

    @property
    def base(self) -> str:
        """What the place of each object begins with."""
        scheme, place = parse_source(self.place)
        return _folder(Path(place).as_uri() if scheme == "file" else f"{scheme}://{place}")

    @property
    def prefix(self) -> str:
        """What the URI of each object begins with."""
        return _folder(self.uri) if self.uri else self.base


def list_source(source: Source, parameters: ManifestParameters, rejected: Rejected, context: Context) -> pl.DataFrame:
    """Objects below a source by key, without those excluded and without junk.

    Columns are those of `LISTED`, `place`, from where the object is read, and `dataset_path`, which is null for
    what is no dataset's.

    Raises:
        DataError: When there is nothing.
    """
    listed = _list(source, context)
    if listed.is_empty():
        raise DataError(f"there are no objects below {source.place}")
    rows = _chosen(_known_to_others(listed, source), parameters.include, parameters.exclude)
    if rows.is_empty():
        raise DataError(
            f"none of the {listed.height} objects below {source.place} is chosen by "
            f"include={list(parameters.include)} and exclude={list(parameters.exclude)}; "
            f"the first key is {listed['key'][0]!r}"
        )
    return _without_junk(rows, parameters, rejected)


def _folder(uri: str) -> str:
    return uri.rstrip("/") + "/"


def _known_to_others(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    relative = pl.col("uri").str.strip_prefix(source.base)
    # keys of buckets are written as they are, paths in file URIs percent-encoded
    encoded = source.prefix == source.base or source.prefix.startswith("file:")
    return rows.with_columns(
        place=pl.col("uri"),
        uri=pl.lit(source.prefix) + (relative if encoded else pl.col("key")),
        dataset_path=relative if source.dataset else pl.lit(None, dtype=pl.String),
    )


def _list(source: Source, context: Context) -> pl.DataFrame:
    objects = list_objects(source.place)
    parts = [pl.DataFrame(schema=LISTED)]
    while batch := list(islice(objects, _BATCH)):
        columns = ([getattr(item, name) for item in batch] for name in LISTED)
        parts.append(pl.DataFrame(dict(zip(LISTED, columns, strict=True)), schema=LISTED))
        context.progress(sum(part.height for part in parts), None, "objects listed")
    return pl.concat(parts).sort("key", "uri")


def _chosen(rows: pl.DataFrame, include: Sequence[str], exclude: Sequence[str]) -> pl.DataFrame:
    if tuple(include) == ("*",) and not exclude:
        return rows
    wanted, unwanted = _pattern(include), _pattern(exclude)
    return rows.filter(pl.Series([bool(wanted.match(key)) and not unwanted.match(key) for key in rows["key"]]))


def _pattern(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")


def _without_junk(rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected) -> pl.DataFrame:
    key, size = pl.col("key"), pl.col("size")
    limit = int(parameters.max_megabytes * 1_000_000)
    rows = rejected.take(rows, key.str.contains(_SYSTEM_FILES), "junk", "a file that operating systems leave behind")
    rows = rejected.take(rows, key.str.contains(r"(^|/)\."), "hidden", "its name or folder begins with a dot")
    rows = rejected.take(rows, size < 0, "broken_link", "a symbolic link to nothing")
    rows = rejected.take(rows, size == 0, "empty", "0 bytes")
    too_large = pl.format("{} bytes, allowed by max_megabytes: {}", size, pl.lit(limit))
    return rejected.take(rows, size > limit, "too_large", too_large)
