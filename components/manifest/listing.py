"""List a source and set aside what is junk by its name or size."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from millrace.components.manifest.parts import even
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import (
    InventoryListing,
    KeysListing,
    ManifestInputs,
    ManifestParameters,
    StoreListing,
)
from millrace.data.listings import inventory_batches, keys_batches
from millrace.data.tables import table_format
from millrace.errors import ConfigError, DataError
from millrace.runtime.context import Context
from millrace.runtime.storage import Listed, list_batches, list_objects, parse_source

__all__ = ["LISTED", "Source", "find_source", "list_source"]

LISTED = {
    "uri": pl.String(),
    "key": pl.String(),
    "size": pl.Int64(),
    "modified": pl.Int64(),
    "etag": pl.String(),
    "version": pl.String(),
}
"""Columns of a listing."""

_SYSTEM_FILES = r"(?i)(^|/)(\.ds_store|thumbs\.db|ehthumbs\.db|desktop\.ini|\._[^/]*|__macosx/.*)$"


@dataclass(frozen=True)
class Source:
    """What is listed, and how others know it."""

    place: str
    """Path or URI of the folder from which it is read here."""
    uri: str = ""
    """Of a dataset that an earlier task made: where other machines have it, if anywhere."""
    dataset: bool = False
    file: str = ""
    """The only object to take, by its key, when not all are."""

    @property
    def base(self) -> str:
        """What the place of each object begins with."""
        scheme, place = parse_source(self.place)
        return _folder(Path(place).as_uri() if scheme == "file" else f"{scheme}://{place}")

    @property
    def prefix(self) -> str:
        """What the URI of each object begins with."""
        return _folder(self.uri) if self.uri else self.base


def find_source(parameters: ManifestParameters, inputs: ManifestInputs) -> Source:
    """What is to be listed; of a single file, its folder.

    Raises:
        ConfigError: When nothing is, or two things are.
    """
    needed = "manifest needs its parameter source or its input dataset"
    if parameters.source is not None and inputs.dataset is not None:
        raise ConfigError(f"{needed}, not both: leave source={parameters.source!r} out")
    if inputs.dataset is not None:
        return _whole_or_file(str(inputs.dataset.path), inputs.dataset.uri, dataset=True)
    if parameters.source is None:
        raise ConfigError(f"{needed}: set manifest.source to a folder, s3://bucket/prefix or gs://bucket/prefix")
    return _whole_or_file(parameters.source, "", dataset=False)


def list_source(
    source: Source, parameters: ManifestParameters, rejected: Rejected, context: Context
) -> Iterator[pl.DataFrame]:
    """Objects below a source, mostly by key, in tables of equal height, without those excluded and without junk.

    Columns are those of `Listed`, `place`, from where the object is read, and `dataset_path`, which is null for
    what is no dataset's.

    Raises:
        DataError: When there is nothing.
    """
    listed = chosen = 0
    first = ""
    for batch in even(_batches(source, parameters, context.scratch)):
        first = first or str(batch["key"][0])
        listed += batch.height
        context.progress(listed, None, "objects listed")
        rows = _chosen(_known_to_others(batch, source), parameters.include, parameters.exclude)
        chosen += rows.height
        yield _without_junk(rows, parameters, rejected)
    if not listed:
        raise DataError(f"there are no objects below {source.place}")
    if not chosen:
        raise DataError(
            f"none of the {listed} objects below {source.place} is chosen by "
            f"include={list(parameters.include)} and exclude={list(parameters.exclude)}; "
            f"the first key is {first!r}"
        )


def _folder(uri: str) -> str:
    return uri.rstrip("/") + "/"


def _whole_or_file(place: str, uri: str, *, dataset: bool) -> Source:
    scheme, rest = parse_source(place)
    if scheme == "file":
        single = Path(rest).is_file()
    else:
        single = table_format(place) is not None and next(iter(list_objects(place)), None) is None
    if not single:
        return Source(place, uri, dataset)
    folder, _, name = (rest if scheme == "file" else place.rstrip("/")).rpartition("/")
    return Source(folder or "/", uri.rstrip("/").rpartition("/")[0], dataset, file=name)


def _batches(source: Source, parameters: ManifestParameters, scratch: Path) -> Iterator[pl.DataFrame]:
    listing = parameters.listing
    if source.file:
        yield from _single(source)
        return
    match listing:
        case StoreListing():
            yield from list_batches(source.place, concurrency=listing.concurrency)
        case InventoryListing():
            yield from inventory_batches(source.place, listing.manifest, scratch)
        case KeysListing():
            yield from keys_batches(source.place, listing.path, listing.column, scratch)


def _single(source: Source) -> Iterator[pl.DataFrame]:
    """The one object; in a bucket it is found in a listing of what lies beside it."""
    scheme, folder = parse_source(source.place)
    if scheme == "file":
        path = Path(folder, source.file)
        status = path.stat()
        item = Listed(path.as_uri(), source.file, status.st_size, status.st_mtime_ns)
        yield pl.DataFrame([item], schema=LISTED, orient="row")
        return
    for batch in list_batches(source.place):
        found = batch.filter(pl.col("key") == source.file)
        if found.height:
            yield found
            return
        if batch["key"][-1] > source.file:
            return


def _known_to_others(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    relative = pl.col("uri").str.strip_prefix(source.base)
    # keys of buckets are written as they are, paths in file URIs percent-encoded
    encoded = source.prefix == source.base or source.prefix.startswith("file:")
    return rows.with_columns(
        place=pl.col("uri"),
        uri=pl.lit(source.prefix) + (relative if encoded else pl.col("key")),
        dataset_path=relative if source.dataset else pl.lit(None, dtype=pl.String),
    )


def _chosen(rows: pl.DataFrame, include: Sequence[str], exclude: Sequence[str]) -> pl.DataFrame:
    if tuple(include) == ("*",) and not exclude:
        return rows
    wanted, unwanted = _pattern(include), _pattern(exclude)
    return rows.filter(pl.Series([bool(wanted.match(key)) and not unwanted.match(key) for key in rows["key"]]))


def _pattern(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")


def _without_junk(rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected) -> pl.DataFrame:
    key, size = pl.col("key"), pl.col("size")
    rows = rejected.take(rows, key.str.contains(_SYSTEM_FILES), "junk", "a file that operating systems leave behind")
    rows = rejected.take(rows, key.str.contains(r"(^|/)\."), "hidden", "its name or folder begins with a dot")
    rows = rejected.take(rows, size < 0, "broken_link", "a symbolic link to nothing")
    rows = rejected.take(rows, size == 0, "empty", "0 bytes")
    if parameters.of_tables:
        return _tables(rows, parameters, rejected)
    limit = int(parameters.max_megabytes * 1_000_000)
    too_large = pl.format("{} bytes, allowed by max_megabytes: {}", size, pl.lit(limit))
    return rejected.take(rows, size > limit, "too_large", too_large)


def _tables(rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected) -> pl.DataFrame:
    known = pl.Series("known", [table_format(key) in parameters.formats for key in rows["key"]], dtype=pl.Boolean)
    told = f"its name has no ending of {', '.join(parameters.formats)}"
    return rejected.take(rows.with_columns(known), ~pl.col("known"), "wrong_type", told).drop("known")
