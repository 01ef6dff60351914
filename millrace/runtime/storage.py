"""Local folders, `s3://` and `gs://` behind one small read interface.

Buckets go through obstore, which signs, pages, retries and pools connections. Local folders go through
the standard library: obstore's own local store can't list names that are not Unicode or end in `#1`.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from millrace.errors import ConfigError, DataError, MillraceError, TransientError, UserError
from millrace.runtime.buckets import Patience, read_from_bucket
from millrace.runtime.listing import pages_in_order

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Listed", "Patience", "list_batches", "list_objects", "parse_source", "process_many", "read"]

_REMOTE = ("s3", "gs")
_BYTES_IN_FLIGHT = 512 << 20
_BATCH = 50_000

ResultT = TypeVar("ResultT")


class Listed(NamedTuple):
    """One object as a listing tells it; a tuple, because there may be millions."""

    uri: str
    """`s3://bucket/key`, `gs://bucket/key` (keys as they are) or `file:///path` (percent-encoded)."""
    key: str
    """Below the source, with `/` between folders."""
    size: int
    """Bytes; -1 for a symbolic link to nothing, which can't be read."""
    modified: int
    """Nanoseconds since 1970."""
    etag: str | None = None
    """Of the store; None for files."""
    version: str | None = None


def list_batches(source: str, *, concurrency: int = 16, patience: Patience = Patience()) -> Iterator[pl.DataFrame]:
    """Everything below a folder or prefix as tables of up to 50,000 rows, by key over all of them.

    Columns are those of `Listed`: uri, key, size (Int64), modified (Int64, ns), etag and version. What is left out is
    told at `list_objects`.

    Args:
        source: As `list_objects` takes it.
        concurrency: Requests to a store at a time. Where a bucket has folders, they are listed at the same time.
        patience: How long to go on when a store does not answer.

    Raises:
        MillraceError: As `list_objects`.
    """
    scheme, place = parse_source(source)
    if scheme == "file":
        yield from _folder_batches(Path(place))
        return
    bucket, _, prefix = place.partition("/")
    prefix = prefix.rstrip("/")
    rows = _of_size(pages_in_order(scheme, bucket, prefix, patience, concurrency))
    for batch in _ordered(_without_markers(rows, prefix), source):
        yield _listed(batch, f"{scheme}://{bucket}/", prefix)


def list_objects(source: str, *, concurrency: int = 16, patience: Patience = Patience()) -> Iterator[Listed]:
    """Everything below a folder or prefix, by key.

    Symbolic links are followed, but never into a folder that is being listed already; sockets and pipes are
    left out. Markers of empty folders that consoles leave in buckets are left out.

    Args:
        source: Path of a folder, `file://`, `s3://bucket/prefix` or `gs://bucket/prefix`.
        concurrency: Requests to a store at a time.
        patience: How long to go on when a store does not answer.

    Raises:
        ConfigError: When `source` is none of these.
        DataError: When there is no such folder or bucket.
        UserError: When it may not be read.
        TransientError: When the store stays unreachable.
    """
    scheme, place = parse_source(source)
    if scheme == "file":
        yield from _list_folder(Path(place))
        return
    for batch in list_batches(source, concurrency=concurrency, patience=patience):
        yield from map(Listed._make, batch.iter_rows())


def read(item: str | Listed, *, patience: Patience = Patience()) -> bytes:
    """All bytes of one object.

    Args:
        item: A URI, a path, or what `list_objects` gave: then an object that was changed since is an error.
        patience: How long to go on when a store does not answer.

    Raises:
        DataError: When there is no such object, or it is no longer what was listed.
        UserError: When it may not be read.
        TransientError: When the store stays unreachable.
    """
    listed = item if isinstance(item, Listed) else None
    uri = item.uri if isinstance(item, Listed) else item
    scheme, place = parse_source(uri)
    if scheme == "file":
        return _read_file(place, listed)
    bucket, _, key = place.partition("/")
    etag, size = (listed.etag, listed.size) if listed else (None, None)
    return read_from_bucket(scheme, bucket, key, patience, etag=etag, size=size)


def process_many(
    items: Iterable[str | Listed],
    function: Callable[[bytes], ResultT],
    *,
    concurrency: int = 16,
    patience: Patience = Patience(),
) -> Iterator[tuple[str, ResultT | Exception]]:
    """Read many objects and apply `function` to the bytes of each, in threads, in the order given.

    At most `concurrency` objects and half a GiB (of sizes known from a listing) are held at a time.

    Yields:
        Each URI with what `function` returned, or with the error that reading or `function` raised.
    """

    def work(item: str | Listed) -> ResultT | Exception:
        try:
            return function(read(item, patience=patience))
        except Exception as error:  # handed to the caller, who decides
            return error

    pending: deque[tuple[str | Listed, Future[ResultT | Exception]]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(concurrency, thread_name_prefix="read") as pool:
        try:
            for item in items:
                in_flight += _size(item)
                while pending and (len(pending) >= concurrency or in_flight > _BYTES_IN_FLIGHT):
                    done, future = pending.popleft()
                    yield _uri(done), future.result()
                    in_flight -= _size(done)
                pending.append((item, pool.submit(work, item)))
            while pending:
                done, future = pending.popleft()
                yield _uri(done), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def parse_source(source: str) -> tuple[str, str]:
    """Scheme (file, s3 or gs) and the rest: an absolute path, or `bucket/key`.

    Raises:
        ConfigError: When it is not a path, nor a URI of these schemes.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        return "file", str(Path(source).expanduser().absolute())
    if scheme == "file":
        path = os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost")))
        if not path.startswith("/"):
            raise ConfigError(f"{source!r} is not an absolute file URI: file:///path is allowed")
        return "file", path
    if scheme not in _REMOTE:
        raise ConfigError(f"{source!r}: scheme {scheme!r} is unknown; allowed: a path, file://, s3://, gs://")
    if not rest.partition("/")[0]:
        raise ConfigError(f"{source!r} names no bucket; write {scheme}://BUCKET/PREFIX")
    return scheme, rest


def _of_size(pages: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in tables of about `_BATCH` rows, and never more."""
    import polars as pl

    held: list[pl.DataFrame] = []
    rows = 0
    for page in (part for whole in pages for part in whole.iter_slices(_BATCH)):
        if held and rows + page.height > _BATCH:
            yield pl.concat(held)
            held, rows = [], 0
        held.append(page)
        rows += page.height
    if held:
        yield pl.concat(held)


def _without_markers(batches: Iterable[pl.DataFrame], prefix: str) -> Iterator[pl.DataFrame]:
    """Leave out markers of folders: nothing in them, and more below them.

    obstore drops their last slash, so that they may stand behind keys that are greater.
    """

    before = ""
    waiting: pl.DataFrame | None = None
    for batch in batches:
        if waiting is not None:
            yield _unmarked(waiting, before, batch["path"][0], prefix)
            before = waiting["path"][-1]
        waiting = batch
    if waiting is not None:
        yield _unmarked(waiting, before, "", prefix)


def _unmarked(batch: pl.DataFrame, before: str, following: str, prefix: str) -> pl.DataFrame:
    """Without markers; `before` and `following` are the paths around this batch."""
    import polars as pl

    if not (batch["size"] == 0).any():
        return batch
    path = pl.col("path")
    behind = path.shift(-1, fill_value=following)
    late = path < path.shift(1, fill_value=before)
    marker = (path == prefix) | (path == behind) | behind.str.starts_with(path + "/") | late
    return batch.filter(~((pl.col("size") == 0) & marker))


def _ordered(batches: Iterable[pl.DataFrame], source: str) -> Iterator[pl.DataFrame]:
    """The same; a listing can only be divided where keys come in order."""
    last = ""
    for batch in batches:
        paths = batch["path"]
        if batch.is_empty():
            continue
        if paths[0] < last or not paths.is_sorted():
            raise DataError(
                f"{source}: the store does not list keys in order, as directory buckets of S3 do not; list it another "
                "way: by an inventory, or a table of keys"
            )
        last = paths[-1]
        yield batch


def _listed(batch: pl.DataFrame, base: str, prefix: str) -> pl.DataFrame:
    import polars as pl

    path = pl.col("path")
    return batch.select(
        uri=pl.lit(base) + path,
        key=path.str.strip_prefix(f"{prefix}/") if prefix else path,
        size=pl.col("size").cast(pl.Int64),
        modified=pl.col("last_modified").dt.epoch("ns"),
        etag="e_tag",
        version="version",
    )


def _folder_batches(folder: Path) -> Iterator[pl.DataFrame]:
    import polars as pl

    schema = {"uri": pl.String, "key": pl.String, "size": pl.Int64, "modified": pl.Int64}
    nothing = pl.lit(None, dtype=pl.String)
    objects = _list_folder(folder)
    while batch := list(islice(objects, _BATCH)):
        columns = dict(zip(schema, zip(*(item[:4] for item in batch), strict=True), strict=True))
        yield pl.DataFrame(columns, schema=schema).with_columns(etag=nothing, version=nothing)


def _list_folder(folder: Path) -> Iterator[Listed]:
    if not folder.exists():
        raise DataError(f"{folder}: there is no such file or folder")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, a folder is needed")
    yield from _walk(folder, "", ())


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Listed]:
    """Depth first in the order of whole keys: a folder sorts as its name with a slash."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a symbolic link to a folder above
            return
        with os.scandir(folder) as scan:
            entries = sorted(_entries(scan))
    except OSError as error:
        raise _denied(folder, error) from error
    base = folder.as_uri().rstrip("/") + "/"
    for name, size, modified in entries:
        if name.endswith("/"):
            yield from _walk(folder / name, prefix + name, (*above, here))
        else:
            key = os.fsencode(prefix + name).decode("utf-8", "backslashreplace")
            yield Listed(base + quote_from_bytes(os.fsencode(name)), key, size, modified)


def _entries(scan: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of regular files, and of folders, whose names get a slash."""
    for entry in scan:
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink() and not isinstance(error, PermissionError):  # to nothing, or to itself
                yield entry.name, -1, 0
                continue
            raise
        if stat.S_ISDIR(status.st_mode):
            yield f"{entry.name}/", 0, 0
        elif stat.S_ISREG(status.st_mode):
            yield entry.name, status.st_size, status.st_mtime_ns


def _read_file(path: str, listed: Listed | None) -> bytes:
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a path costs more than the reading
            modified = os.fstat(stream.fileno()).st_mtime_ns if listed else 0
            data = stream.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file" + (" any more" if listed else "")) from error
    except OSError as error:
        raise _denied(path, error) from error
    if listed and (len(data), modified) != (listed.size, listed.modified):
        raise DataError(f"{path} was changed while it was read; run again when nothing writes to it")
    return data


def _denied(path: Path | str, error: OSError) -> MillraceError:
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read by this user; allow it with chmod, or run as its owner")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return DataError(f"{path}: {error.strerror}")
    return TransientError(f"{path} can't be read: {error.strerror}")


def _uri(item: str | Listed) -> str:
    return item.uri if isinstance(item, Listed) else item


def _size(item: str | Listed) -> int:
    return item.size if isinstance(item, Listed) else 0
