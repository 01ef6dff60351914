"""S3 and Google Cloud Storage through obstore: settings, patience and errors that say what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import DataError, MillraceError, UserError
from millrace.runtime.bucket_errors import BrokenOffError, ChangedError, explained
from millrace.runtime.odd_keys import (
    ODD_KEYS,
    can_read_odd,
    failure_as_obstore,
    has_leading_slashes,
    is_odd,
    list_odd,
    read_odd,
)

if TYPE_CHECKING:
    import polars as pl
    from obstore.store import ClientConfig, GCSStore, RetryConfig, S3Store

__all__ = [
    "Patience",
    "bucket_folders",
    "bucket_pages",
    "copy_from_bucket",
    "copy_to_bucket",
    "delete_from_bucket",
    "read_from_bucket",
]


_SETTINGS = ("AWS_", "GOOGLE_")
_PIECE = 8 << 20
_PAGE = 1000
_PAGE_AFTER_FAILURE = 50
"""Objects that are asked of obstore at a time; those before a failure in such a group are asked for again."""


@dataclass(frozen=True)
class Patience:
    """How long to go on when a store throttles, drops connections or is slow."""

    retries: int = 8
    """Of one request, with growing pauses; and of one body that ended early."""
    seconds: float = 120
    """After which no retry is begun."""
    stall_seconds: float = 30
    """Longest silence of a connection."""


def bucket_pages(
    scheme: str, bucket: str, prefix: str, patience: Patience, after: str | None = None
) -> Iterator[pl.DataFrame]:
    """Objects below a prefix in the store's order, as tables: path, last_modified, size, e_tag and version.

    Goes on after the last object when the connection breaks off in the middle of a page. The last row of a table is
    never one of 0 bytes, but for the last table: it could be the marker of a folder, whose last slash obstore drops,
    and whose place in the order is thus unknown.

    Args:
        scheme: s3 or gs.
        bucket: Its name.
        prefix: Folder, without a slash at its end.
        patience: How long to go on when a store does not answer.
        after: A key: only those behind it.
    """
    import obstore
    import polars as pl
    from obstore.exceptions import InvalidPathError

    store = _store(scheme, bucket, patience)
    attempts = _Attempts(patience)
    size, last = _PAGE, after
    odd = _is_odd_listing(scheme, bucket, prefix, patience, after)
    while True:
        held: pl.DataFrame | None = None
        try:
            if odd:
                for rows in list_odd(bucket, prefix, patience.retries, last):
                    last = rows["path"][-1]
                    yield rows
                return
            for page in obstore.list(store, prefix or None, offset=last, chunk_size=size, return_arrow=True):
                rows = pl.DataFrame(page)
                rows = rows if held is None else pl.concat((held, rows))
                whole = rows.height - _late_at_end(rows, last or "")
                rows, held = rows[:whole], (rows[whole:] if whole < rows.height else None)
                if whole:
                    last = rows["path"][-1]
                    yield rows
                attempts = _Attempts(patience)
            if held is not None:
                yield held
            return
        except Exception as error:
            if not odd and isinstance(error, InvalidPathError) and can_read_odd(scheme):
                odd = True
                continue
            failure = explained(failure_as_obstore(error) if odd else error, f"{scheme}://{bucket}/{prefix}")
        attempts.wait_or_raise(failure)
        size = _PAGE_AFTER_FAILURE


def _is_odd_listing(scheme: str, bucket: str, prefix: str, patience: Patience, after: str | None) -> bool:
    """Whether obstore would list something else than is there."""
    if is_odd(prefix):
        if not can_read_odd(scheme):
            raise DataError(f"{scheme}://{bucket}/{prefix}: {ODD_KEYS}")
        return True
    if prefix or (after or "") >= "/" or not can_read_odd(scheme):
        return False
    try:
        return has_leading_slashes(bucket, patience.retries)
    except Exception as error:
        failure = explained(failure_as_obstore(error), f"{scheme}://{bucket}")
    raise failure from None


async def bucket_folders(scheme: str, bucket: str, prefix: str, patience: Patience) -> list[str]:
    """Paths of the folders directly below a prefix. Reads all that is directly below: to be cancelled if that is much.

    Failures are those of obstore: what is asked for here is only a way to be faster.
    """
    import obstore

    store = _store(scheme, bucket, patience)
    found = await obstore.list_with_delimiter_async(store, prefix or None, return_arrow=True)
    folders = sorted(found["common_prefixes"])
    if "" in folders and not can_read_odd(scheme):  # of keys that begin with a slash
        raise DataError(f"{scheme}://{bucket}/{prefix}: {ODD_KEYS}")
    return [folder for folder in folders if folder]


def _late_at_end(rows: pl.DataFrame, before: str) -> int:
    """How many rows at the end are markers of folders, told behind paths that are greater."""
    paths, sizes = rows["path"], rows["size"]
    count = 0
    while (at := rows.height - count - 1) >= 0 and not sizes[at] and paths[at] < (paths[at - 1] if at else before):
        count += 1
    return count


class _Attempts:
    """obstore tries requests again, but not one whose answer breaks off after its headers: this does."""

    def __init__(self, patience: Patience) -> None:
        self.left = patience.retries
        self.deadline = time.monotonic() + patience.seconds
        self.pause = 0.1

    def wait_or_raise(self, failure: MillraceError) -> None:
        """Wait before another attempt, or raise `failure` when there shall be none."""
        exhausted = self.left <= 0 or time.monotonic() + self.pause > self.deadline
        if exhausted or not isinstance(failure, BrokenOffError):
            raise failure from None
        time.sleep(self.pause)
        self.left -= 1
        self.pause = min(2 * self.pause, 5)


def read_from_bucket(
    scheme: str, bucket: str, key: str, patience: Patience, *, etag: str | None, size: int | None
) -> bytes:
    """All bytes of an object, which must still have that etag and size when they are given."""
    uri = f"{scheme}://{bucket}/{key}"
    attempts = _Attempts(patience)
    odd = is_odd(key)
    if odd and not can_read_odd(scheme):
        raise DataError(f"{uri}: {ODD_KEYS}")
    while True:
        failure: MillraceError
        try:
            if odd:
                data, there = read_odd(bucket, key, patience.retries, etag)
            else:
                data, there = _got(_store(scheme, bucket, patience), key, etag)
        except Exception as error:
            failure = explained(failure_as_obstore(error) if odd else error, uri)
        else:
            if (problem := _incomplete(uri, len(data), there, etag, size)) is None:
                return data
            failure = problem
        attempts.wait_or_raise(failure)


def _got(store: S3Store | GCSStore, key: str, etag: str | None) -> tuple[bytes, int]:
    import obstore

    result = obstore.get(store, key, options={"if_match": etag} if etag else None)
    return bytes(result.bytes()), result.meta["size"]


def _incomplete(uri: str, arrived: int, told: int, etag: str | None, size: int | None) -> MillraceError | None:
    """What is wrong with a body by its length.

    Args:
        uri: Of the object.
        arrived: Bytes.
        told: Bytes that the answer promises.
        etag: That the object has, when it was asked for.
        size: Bytes that were listed, when they are known.
    """
    if size is not None and etag is None and arrived == told != size:
        return ChangedError(f"{uri} was changed after it was listed: it has {told} bytes, and had {size}")
    wanted = told if size is None else size
    return None if arrived == wanted else BrokenOffError(f"{uri}: only {arrived} of {wanted} bytes arrive")


def copy_from_bucket(
    scheme: str,
    bucket: str,
    key: str,
    target: Path,
    patience: Patience,
    *,
    etag: str | None = None,
    size: int | None = None,
) -> None:
    """Write an object to a new file, in pieces: it may be larger than memory.

    It must still have that etag and size when they are given.
    """
    import obstore

    uri = f"{scheme}://{bucket}/{key}"
    if is_odd(key):
        target.write_bytes(read_from_bucket(scheme, bucket, key, patience, etag=etag, size=size))
        return
    store = _store(scheme, bucket, patience)
    attempts = _Attempts(patience)
    while True:
        written = 0
        try:
            result = obstore.get(store, key, options={"if_match": etag} if etag else None)
            with target.open("wb") as stream:
                for piece in result.stream(min_chunk_size=_PIECE):
                    written += stream.write(piece)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the file here
                raise
            failure = explained(error, uri)
        else:
            if (problem := _incomplete(uri, written, result.meta["size"], etag, size)) is None:
                return
            failure = problem
        attempts.wait_or_raise(failure)


def copy_to_bucket(source: Path | bytes, scheme: str, bucket: str, key: str, patience: Patience) -> None:
    """Write an object from a file or from memory; others see it whole or not at all."""
    import obstore

    try:
        obstore.put(_store(scheme, bucket, patience), key, source)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file here
            raise
        failure = explained(error, f"{scheme}://{bucket}/{key}")
    else:
        return
    raise failure from None


def delete_from_bucket(scheme: str, bucket: str, keys: Sequence[str], patience: Patience) -> None:
    """Delete objects; those that are not there are left out."""
    import obstore

    try:
        obstore.delete(_store(scheme, bucket, patience), keys)
    except Exception as error:
        failure = explained(error, f"{scheme}://{bucket}/{keys[0]}")
    else:
        return
    raise failure from None


def _store(scheme: str, bucket: str, patience: Patience) -> S3Store | GCSStore:
    """A store for the environment as it is now."""
    settings = frozenset((name, os.environ.get(name)) for name in os.environ if name.startswith(_SETTINGS))
    try:
        return _opened(scheme, bucket, patience, hash(settings))
    except Exception as error:
        failure = explained(error, f"{scheme}://{bucket}")
    raise failure from None


@lru_cache(maxsize=16)
def _opened(scheme: str, bucket: str, patience: Patience, settings: int) -> S3Store | GCSStore:
    from obstore.store import GCSStore, S3Store

    named = ("GOOGLE_BASE_URL",) if scheme == "gs" else ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint = next((os.environ[name] for name in named if os.environ.get(name)), "")
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=min(10, patience.stall_seconds)),
        "read_timeout": timedelta(seconds=patience.stall_seconds),
        "timeout": timedelta(seconds=max(600, patience.seconds)),
        "user_agent": "millrace",
    }
    retry: RetryConfig = {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.seconds),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
    }
    config: dict[str, Any] = {}
    if scheme == "gs":
        if endpoint:
            config["base_url"] = endpoint
        return GCSStore(bucket, client_options=client, retry_config=retry, **config)
    if not endpoint and "." not in bucket:  # a dot would not match the certificate of *.s3.amazonaws.com
        config["virtual_hosted_style_request"] = True
    if profile := _profile_credentials():
        config["credential_provider"] = profile
    return S3Store(bucket, client_options=client, retry_config=retry, **config)


def _profile_credentials() -> Any:
    """Credentials of ~/.aws for obstore, which itself knows the environment and the roles of AWS hosts."""
    profile = os.environ.get("AWS_PROFILE")
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config")
    if "AWS_ACCESS_KEY_ID" in os.environ or not (profile or any(Path(file).expanduser().exists() for file in files)):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if profile:
            raise UserError(
                f"AWS_PROFILE={profile} needs boto3: pip install boto3, or put the profile's credentials into the "
                "environment: eval $(aws configure export-credentials --format env)"
            ) from None
        return None
    try:
        return Boto3CredentialProvider()
    except ValueError:
        return None
