"""Lists of objects that somebody else has made: S3 Inventory reports, and plain tables of keys.

Both may be larger than memory, and in any order: rows are sorted in files of a temporary folder, which need about as
much room as the list itself.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, unquote_plus

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from millrace.data.tables import TableFormat, check_columns, local_copy, read_batches, table_format, table_schema
from millrace.errors import ConfigError, DataError, explain_validation
from millrace.runtime.storage import parse_source, read

__all__ = ["inventory_batches", "keys_batches"]

_SCHEMA = {
    "uri": pl.String, "key": pl.String, "size": pl.Int64, "modified": pl.Int64, "etag": pl.String, "version": pl.String
}  # fmt: skip
_TOLD = ("key", "size", "lastmodifieddate", "etag", "versionid", "islatest", "isdeletemarker")
"""What is taken of an inventory."""
_SORTED = 1_000_000
"""Rows that are sorted at a time, and held when sorted files are merged."""
_BATCH = 50_000


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")
    key: str
    size: int | None = None
    MD5checksum: str = ""


class _Report(BaseModel):
    """What is needed of a report's manifest.json."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)
    source_bucket: str
    destination_bucket: str = ""
    file_format: Literal["CSV", "Parquet", "ORC"]
    file_schema: str
    files: tuple[_File, ...]


def inventory_batches(source: str, manifest: str, scratch: Path | None = None) -> Iterator[pl.DataFrame]:
    """The objects below a source as an S3 Inventory report tells them, in the form and order of `list_batches`.

    Of reports of all versions, only the latest of each object are taken, and no deleted ones. `size`, `modified` and
    `etag` are null when the report was made without them.

    Args:
        source: `s3://bucket/prefix`.
        manifest: Path or URI of the report's `manifest.json`.
        scratch: Where the temporary folder is made; None: below TMPDIR.

    Raises:
        ConfigError: When the source is not in S3.
        DataError: When the report is of another bucket, of a kind that is not read, incomplete or damaged.
    """
    scheme, place = parse_source(source)
    if scheme != "s3":
        raise ConfigError(f"{source} is not in S3, an inventory lists objects of an S3 bucket: s3://BUCKET/PREFIX")
    bucket = place.partition("/")[0]
    report = _report(manifest)
    if report.source_bucket != bucket:
        raise DataError(f"{manifest} is an inventory of the bucket {report.source_bucket!r}, the source is {source}")
    with tempfile.TemporaryDirectory(prefix="millrace-", dir=scratch) as folder:
        rows = _report_rows(report, manifest, source, Path(folder))
        yield from _in_order(_below(rows, source), Path(folder))


def keys_batches(source: str, path: str, column: str, scratch: Path | None = None) -> Iterator[pl.DataFrame]:
    """The objects below a source that a table names, in the form and order of `list_batches`.

    A key that is named twice is taken once. Sizes and times of files in folders are asked of the file system; what
    else is not in the table is null.

    Args:
        source: As `list_batches` takes it.
        path: Path or URI of a table with a header: CSV, or what its ending tells.
        column: With keys below the source, or whole URIs. `size` (bytes), `modified` (nanoseconds since 1970, or ISO
            8601 in UTC), `etag` and `version` are taken when there are such columns.
        scratch: Where the temporary folder is made; None: below TMPDIR.

    Raises:
        DataError: When it is no such table, or names what is not below the source.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-", dir=scratch) as folder:
        table = local_copy(path, Path(folder))
        form = table_format(path) or "csv"
        there = table_schema(table, form, name=path).names()
        check_columns([column], there, path)
        columns = [column, *(name for name in ("size", "modified", "etag", "version") if name in there)]
        batches = read_batches(table, form, list(dict.fromkeys(columns)), name=path)
        rows = (_named(batch, column, source, path) for batch in batches)
        yield from _in_order(rows, Path(folder))


def _report(manifest: str) -> _Report:
    try:
        report = _Report.model_validate_json(read(manifest))
    except ValidationError as error:
        raise DataError(f"{manifest} is no manifest.json of an S3 Inventory: {explain_validation(error)}") from error
    if report.file_format == "ORC":
        raise DataError(f"{manifest} is a report in ORC; CSV and Parquet are read: set one as the inventory's format")
    return report


def _report_rows(report: _Report, manifest: str, source: str, folder: Path) -> Iterator[pl.DataFrame]:
    """All rows of a report with the columns of `_SCHEMA`, with whole keys."""
    for file in report.files:
        copy = _data_file(report, file, manifest, folder)
        name = f"{file.key}, of the inventory {manifest},"
        try:
            if report.file_format == "Parquet":
                yield from _table_rows(copy, "parquet", source, name)
                continue
            table = _with_header(copy, report.file_schema)
            yield from map(_decoded, _table_rows(table, "csv", source, name))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{name} can't be read: {reason}") from error
        finally:
            copy.unlink(missing_ok=True)


def _table_rows(path: Path, form: TableFormat, source: str, name: str) -> Iterator[pl.DataFrame]:
    columns = _columns(table_schema(path, form, name=name))
    for batch in read_batches(path, form, [columns[told] for told in _TOLD if told in columns], name=name):
        yield _uniform(batch.lazy(), source).collect()


def _with_header(rows: Path, names: str) -> Path:
    """A table like others: the reports have the names of their columns elsewhere."""
    table = rows.with_name("table")
    with rows.open("rb") as written, table.open("wb") as stream:
        stream.write(",".join(name.strip() for name in names.split(",")).encode() + b"\n")
        shutil.copyfileobj(written, stream, 1 << 20)
    rows.unlink()
    return table


def _data_file(report: _Report, file: _File, manifest: str, folder: Path) -> Path:
    """A copy of a data file in a folder, as it was written and unpacked."""
    target = folder / "data"
    found = _found(report, file, manifest, folder)
    (shutil.move if found.parent == folder else shutil.copyfile)(found, target)
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "md5").hexdigest()
        stream.seek(0)
        if file.MD5checksum and digest != file.MD5checksum:
            raise DataError(
                f"{file.key}, of the inventory {manifest}, has the MD5 {digest}, the manifest tells "
                f"{file.MD5checksum}: it is damaged or of another report; copy it again"
            )
        if stream.read(2) != b"\x1f\x8b":
            return target
    unpacked = folder / "unpacked"
    try:
        with gzip.open(target) as packed, unpacked.open("wb") as stream:
            shutil.copyfileobj(packed, stream, 1 << 20)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file.key}, of the inventory {manifest}, can't be unpacked: {error}") from error
    target.unlink()
    return unpacked


def _found(report: _Report, file: _File, manifest: str, folder: Path) -> Path:
    """A data file where the store has put it; or else near the manifest, when both were copied to another place."""
    base = manifest.rpartition("/")[0] or "."
    name = PurePosixPath(file.key).name
    places = [f"{base}/{name}", f"{base}/data/{name}", f"{base}/../data/{name}"]
    scheme, rest = parse_source(manifest)
    if scheme != "file":
        bucket, _, key = rest.rpartition("/")[0].partition("/")
        above = "/".join([bucket, *key.split("/")[:-1]])
        places = [f"{scheme}://{bucket}/{file.key}", f"{scheme}://{above}/data/{name}", *places[:2]]
    for place in places:
        try:
            copy = local_copy(place, folder)
        except DataError:
            continue
        if copy.is_file():
            return copy
    raise DataError(f"{manifest} names the data file {file.key}, which is at none of: {', '.join(places)}")


def _columns(schema: pl.Schema) -> dict[str, str]:
    """The columns of a report by names as `_TOLD` has them: they differ between formats in case and `_`."""
    columns = {name.lower().replace("_", ""): name for name in schema.names()}
    if "key" not in columns:
        raise DataError(f"an inventory has no column Key, its columns are {', '.join(schema.names())}")
    return columns


def _uniform(frame: pl.LazyFrame, source: str) -> pl.LazyFrame:
    """The columns of `_SCHEMA` from those of a report."""
    columns = _columns(schema := frame.collect_schema())

    def column(name: str) -> pl.Expr:
        return pl.col(columns[name]) if name in columns else pl.lit(None, dtype=pl.String)

    def is_true(name: str) -> pl.Expr:
        return column(name).cast(pl.String).str.to_lowercase() == "true"

    if "islatest" in columns:
        frame = frame.filter(is_true("islatest"))
    if "isdeletemarker" in columns:
        frame = frame.filter(~is_true("isdeletemarker").fill_null(False))
    modified = column("lastmodifieddate")
    kind = schema.get(columns.get("lastmodifieddate", ""), pl.String())
    if kind == pl.String:
        modified = modified.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns").dt.epoch("ns")
    elif kind.is_temporal():
        modified = modified.dt.epoch("ns")
    else:
        modified = modified.cast(pl.Int64) * 1_000_000
    etag, version = column("etag").str.strip_chars('"'), column("versionid")
    return frame.select(
        uri=pl.lit(source),
        key=column("key"),
        size=column("size").cast(pl.Int64),
        modified=modified.cast(pl.Int64),
        etag=pl.when(etag != "").then(pl.format('"{}"', etag)),  # as a listing writes it
        version=pl.when(version != "").then(version),
    )


def _decoded(batch: pl.DataFrame) -> pl.DataFrame:
    """Keys as they are: reports in CSV have them as URLs have them."""
    encoded = batch["key"].str.contains("[%+]")
    if not encoded.any():
        return batch
    keys = [unquote_plus(key) if "%" in key or "+" in key else key for key in batch["key"]]
    return batch.with_columns(pl.Series("key", keys, dtype=pl.String))


def _below(batches: Iterable[pl.DataFrame], source: str) -> Iterator[pl.DataFrame]:
    """Objects below a source in S3, with its URI and the key there; without markers of folders."""
    _, place = parse_source(source)
    bucket, _, prefix = place.partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    key = pl.col("key")
    marker = key.str.ends_with("/") & (pl.col("size").fill_null(0) == 0)
    for batch in batches:
        yield batch.filter(key.str.starts_with(prefix) & ~marker).with_columns(
            uri=pl.lit(f"s3://{bucket}/") + key, key=key.str.strip_prefix(prefix)
        )


def _named(batch: pl.DataFrame, column: str, source: str, path: str) -> pl.DataFrame:
    """Rows of a table of keys in the form of a listing."""
    scheme, place = parse_source(source)
    base = Path(place).as_uri() if scheme == "file" else f"{scheme}://{place}"
    base = base.rstrip("/") + "/"
    keys = batch[column].cast(pl.String)
    whole = keys.str.starts_with(base).fill_null(False) & (scheme != "file")
    if scheme == "file":  # whose URIs are percent-encoded, unlike those of buckets
        decoded = [unquote(key.removeprefix(base)) if key and key.startswith(base) else key for key in keys]
        keys = pl.Series(decoded, dtype=pl.String)
    rows = batch.select(
        uri=pl.lit(""),
        key=keys.str.strip_prefix(base),
        size=_numbers(batch, "size", path),
        modified=_times(batch, path),
        etag=_texts(batch, "etag"),
        version=_texts(batch, "version"),
    )
    _check_keys(rows["key"], whole, source, path, column)
    if scheme == "file":
        return _files(rows, Path(place))
    return rows.with_columns(uri=pl.lit(base) + pl.col("key"))


def _check_keys(keys: pl.Series, whole: pl.Series, source: str, path: str, column: str) -> None:
    """See that keys are below the source; `whole` are those told by URIs of a store, where any key may be."""
    outside = (keys.str.contains(r"^(file|s3|gs)://|^/|(^|/)\.\.(/|$)") & ~whole) | (keys == "")
    for key in keys.filter(outside.fill_null(True)).head(1):
        what = "an empty key" if not key else f"{key!r}, which is not below {source}"
        raise DataError(f"{path} has in column {column!r} {what}; keys below it are allowed, or whole URIs there")


def _numbers(batch: pl.DataFrame, name: str, path: str) -> pl.Series:
    if name not in batch.columns:
        return pl.repeat(None, batch.height, dtype=pl.Int64, eager=True)
    given = batch[name]
    numbers = given.cast(pl.Int64, strict=False)
    for wrong in given.filter(numbers.is_null() & given.is_not_null() | (numbers < 0)).head(1):
        raise DataError(f"{path} has {wrong!r} in column {name!r}; a whole number of 0 or more is needed, or nothing")
    return numbers


def _times(batch: pl.DataFrame, path: str) -> pl.Series:
    name = "modified"
    if name not in batch.columns or batch[name].dtype != pl.String:
        if name in batch.columns and batch[name].dtype.is_temporal():
            return batch[name].dt.epoch("ns")
        return _numbers(batch, name, path)
    given = batch[name]
    numbers = given.cast(pl.Int64, strict=False)
    times = given.str.strip_suffix("Z").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ns", strict=False)
    found = numbers.fill_null(times.dt.epoch("ns"))
    for wrong in given.filter(found.is_null() & given.is_not_null()).head(1):
        raise DataError(
            f"{path} has {wrong!r} in column {name!r}; nanoseconds since 1970 are needed, or a time in UTC as "
            "2026-01-31T12:00:00Z"
        )
    return found


def _texts(batch: pl.DataFrame, name: str) -> pl.Series:
    if name not in batch.columns:
        return pl.repeat(None, batch.height, dtype=pl.String, eager=True)
    texts = batch[name].cast(pl.String)
    return texts.set(texts == "", None)


def _files(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """With sizes and times of the file system; -1 for what is not there."""
    found = [_status(folder / key) for key in rows["key"]]
    return rows.with_columns(
        pl.Series("uri", [(folder / key).as_uri() for key in rows["key"]], dtype=pl.String),
        pl.Series("size", [size for size, _ in found], dtype=pl.Int64),
        pl.Series("modified", [modified for _, modified in found], dtype=pl.Int64),
    )


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _in_order(batches: Iterable[pl.DataFrame], folder: Path) -> Iterator[pl.DataFrame]:
    """Rows by key, each key once, in batches of up to 50,000; sorted in files when there are many."""
    parts: list[Path] = []
    held: list[pl.DataFrame] = []
    for batch in batches:
        held.append(batch)
        if sum(frame.height for frame in held) >= _SORTED:
            parts.append(folder / f"sorted-{len(parts)}.parquet")
            pl.concat(held).sort("key").write_parquet(parts[-1], compression="zstd", row_group_size=_BATCH)
            held.clear()
    rest = pl.concat(held).sort("key") if held else pl.DataFrame(schema=_SCHEMA)
    merged = _merged(parts, rest) if parts else iter([rest])
    last: str | None = None
    for frame in merged:
        rows = frame.unique("key", keep="first", maintain_order=True)
        if last is not None:
            rows = rows.filter(pl.col("key") != last)
        if rows.height:
            last = rows["key"][-1]
            yield from rows.iter_slices(_BATCH)


def _merged(parts: list[Path], rest: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Merge sorted files and rows: of each a piece is held; what is not behind the end of any piece may go."""
    size = max(1000, _SORTED // (len(parts) + 1))
    sources = [_pieces(pl.scan_parquet(part, glob=False), size) for part in parts] + [_pieces(rest.lazy(), size)]
    heads = {place: piece for place, source in enumerate(sources) if (piece := next(source, None)) is not None}
    while heads:
        bound = min(str(piece["key"][-1]) for piece in heads.values())
        ready: list[pl.DataFrame] = []
        for place, piece in list(heads.items()):
            count = piece["key"].search_sorted(bound, side="right")
            ready.append(piece[:count])
            following = piece[count:] if count < piece.height else next(sources[place], None)
            if following is None:
                del heads[place]
            else:
                heads[place] = following
        yield pl.concat(ready).sort("key", maintain_order=True)


def _pieces(frame: pl.LazyFrame, size: int) -> Iterator[pl.DataFrame]:
    start = 0
    while (piece := frame.slice(start, size).collect()).height:
        start += piece.height
        yield piece
