"""Objects of S3 whose keys obstore can't name, through boto3: slower, one page after the other.

Those are keys with an empty part (`/a`, `a//b`), with `.` or `..` as a part, with control characters, and those that
end with a slash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ODD_KEYS", "can_read_odd", "failure_as_obstore", "has_leading_slashes", "is_odd", "list_odd", "read_odd"]

ODD_KEYS = (
    "keys that begin or end with a slash, have an empty part (`//`), `.` or `..` as a part, or control characters are "
    "read with boto3 alone, and in S3 alone: pip install boto3, or rename these objects"
)
"""What messages say of them."""

_ODD = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")


def can_read_odd(scheme: str) -> bool:
    """Whether what is needed is installed."""
    return scheme == "s3" and find_spec("boto3") is not None


def is_odd(key: str) -> bool:
    """Whether obstore can't name an object; a bucket itself, `""`, is not odd."""
    return bool(key) and _ODD.search(key) is not None


def has_leading_slashes(bucket: str, retries: int) -> bool:
    """Whether keys of a bucket begin with a slash, which obstore drops without a word."""
    found = _client(retries).list_objects_v2(Bucket=bucket, Prefix="/", MaxKeys=1)
    return bool(found.get("Contents"))


def read_odd(bucket: str, key: str, retries: int, etag: str | None) -> tuple[bytes, int]:
    """All bytes of an object that arrive, and how many there should be."""
    condition = {"IfMatch": etag} if etag else {}
    found = _client(retries).get_object(Bucket=bucket, Key=key, **condition)
    return found["Body"].read(), int(found["ContentLength"])


def list_odd(bucket: str, prefix: str, retries: int, after: str | None) -> Iterator[pl.DataFrame]:
    """The tables of `bucket_pages`, with keys as they are; markers of folders are left out."""
    import polars as pl

    schema: dict[str, pl.DataType] = {
        "path": pl.String(), "last_modified": pl.Datetime("us", "UTC"), "size": pl.UInt64(), "e_tag": pl.String(),
        "version": pl.String(),
    }  # fmt: skip
    wanted = {"Prefix": f"{prefix}/"} if prefix else {}
    pages = _client(retries).get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=bucket, StartAfter=after or "", **wanted):
        rows = [
            (item["Key"], item["LastModified"], item["Size"], item.get("ETag"), None)
            for item in page.get("Contents", ())
            if item["Size"] or not item["Key"].endswith("/")
        ]
        if rows:
            yield pl.DataFrame(rows, schema=schema, orient="row")


def failure_as_obstore(error: Exception) -> Exception:
    """A failure of boto3 in the words of obstore; any other as it is."""
    from botocore.exceptions import ClientError
    from obstore.exceptions import PreconditionError

    if not isinstance(error, ClientError):
        return error
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ("NoSuchKey", "404"):
        return FileNotFoundError()
    if code in ("PreconditionFailed", "412"):
        return PreconditionError()
    return RuntimeError(f"<Code>{code}</Code> status code: {status} after 0 retries")


def _client(retries: int) -> Any:
    """A client for the environment as it is now; any number of threads may use it."""
    return _opened(retries, hash(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@lru_cache(maxsize=16)
def _opened(retries: int, settings: int) -> Any:
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    public = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    signature = {"signature_version": UNSIGNED} if public else {}
    retrying = {"mode": "standard", "max_attempts": retries + 1}
    return Session().client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        config=Config(retries=retrying, max_pool_connections=32, **signature),
    )
