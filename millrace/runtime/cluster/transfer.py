"""Artifacts between a bucket and this machine: whole folders, or single files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from millrace.errors import ConfigError, DataError
from millrace.runtime.buckets import (
    Patience,
    copy_from_bucket,
    copy_to_bucket,
    delete_from_bucket,
    read_from_bucket,
)
from millrace.runtime.storage import list_objects

__all__ = ["check_uri", "download", "read_text", "upload", "write_text"]

_AT_ONCE = 8
_PATIENCE = Patience()

ItemT = TypeVar("ItemT")


class _Place(NamedTuple):
    scheme: str
    bucket: str
    key: str


def check_uri(uri: str, what: str) -> None:
    """Check that other machines can reach a URI, and that this code can.

    Raises:
        ConfigError: When they can't.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        raise ConfigError(
            f"{what}: {uri or 'an artifact'} is on this machine only; set target.pipeline_root to s3://..."
        )
    if scheme not in ("s3", "gs", "minio"):
        raise ConfigError(f"{what}: {uri}: hosts of a cluster job can read s3://, minio:// and gs:// only")
    if scheme == "minio" and not os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        raise ConfigError(
            f"{what}: {uri}: where MinIO answers is not known; set target.pod.environment.AWS_ENDPOINT_URL, "
            "http://minio-service.kubeflow:9000 for one, and its keys in target.pod.secret_variables"
        )


def download(uri: str, target: Path, *, single: bool) -> None:
    """Bring an artifact here.

    Args:
        uri: Of one object, or of a prefix.
        target: A file, or a folder, which is made; it is empty when there is nothing below the prefix.
        single: Whether it is one object.

    Raises:
        MillraceError: When the store does not give it.
    """
    place = _place(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    if single:
        copy_from_bucket(*place, target, _PATIENCE)
        return
    target.mkdir(parents=True, exist_ok=True)

    def bring(key: str) -> None:
        below = PurePosixPath(key[len(place.key) + 1 :])
        if ".." in below.parts:
            raise DataError(f"{uri}: a key leads out of its folder: {key}")
        file = target / below
        file.parent.mkdir(parents=True, exist_ok=True)
        copy_from_bucket(place.scheme, place.bucket, key, file, _PATIENCE)

    _in_threads(bring, _keys(place))


def upload(source: Path, uri: str) -> None:
    """Put an artifact into a bucket; what an earlier attempt left at the place is replaced.

    Raises:
        MillraceError: When the store does not take it.
    """
    place = _place(uri)
    if source.is_file():
        copy_to_bucket(source, *place, _PATIENCE)
        return
    files = {f"{place.key}/{file.relative_to(source).as_posix()}": file for file in _files(source)}
    stale = [key for key in _keys(place) if key not in files]
    for start in range(0, len(stale), 1000):
        delete_from_bucket(place.scheme, place.bucket, stale[start : start + 1000], _PATIENCE)

    def send(key: str) -> None:
        copy_to_bucket(files[key], place.scheme, place.bucket, key, _PATIENCE)

    _in_threads(send, sorted(files))


def write_text(text: str, uri: str) -> None:
    """Write a small object, whole or not at all."""
    copy_to_bucket(text.encode(), *_place(uri), _PATIENCE)


def read_text(uri: str) -> str | None:
    """A small object, or None when there is none."""
    try:
        return read_from_bucket(*_place(uri), _PATIENCE, etag=None, size=None).decode()
    except DataError:
        return None


def _place(uri: str) -> _Place:
    """MinIO is asked in S3's way; its endpoint is in the environment."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return _Place("s3" if scheme == "minio" else scheme, bucket, key.rstrip("/"))


def _keys(place: _Place) -> Iterator[str]:
    source = f"{place.scheme}://{place.bucket}/{place.key}"
    return (f"{place.key}/{item.key}".lstrip("/") for item in list_objects(source, patience=_PATIENCE))


def _files(folder: Path) -> Iterator[Path]:
    return (Path(inside, name) for inside, _, names in os.walk(folder) for name in names)


def _in_threads(function: Callable[[ItemT], None], items: Iterable[ItemT]) -> None:
    """Call a function on all items, several at once; the first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="transfer") as pool:
        for pending in [pool.submit(function, item) for item in items]:
            try:
                pending.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
