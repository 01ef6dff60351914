"""S3 and Google Cloud Storage through obstore: settings, patience and errors that say what to do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import DataError, MillraceError, TransientError, UserError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, GCSStore, RetryConfig, S3Store

__all__ = ["Patience", "bucket_objects", "read_from_bucket"]


@dataclass(frozen=True)
class Patience:
    """How long to go on when a store throttles, drops connections or is slow."""

    retries: int = 8
    """Of one request, with growing pauses; and of one body that ended early."""
    seconds: float = 120
    """After which no retry is begun."""
    stall_seconds: float = 30
    """Longest silence of a connection."""


def bucket_objects(scheme: str, bucket: str, prefix: str, patience: Patience) -> Iterator[ObjectMeta]:
    """All objects below a prefix, in the store's order: by key."""
    import obstore

    uri = f"{scheme}://{bucket}/{prefix}"
    held: ObjectMeta | None = None
    try:
        for chunk in obstore.list(_store(scheme, bucket, patience), prefix=prefix or None):
            for item in chunk:
                if held is not None and not _is_marker(held, item["path"], prefix):
                    yield held
                held = item
    except Exception as error:
        raise _explained(error, uri) from None
    if held is not None and not _is_marker(held, "", prefix):
        yield held


def _is_marker(item: ObjectMeta, following: str, prefix: str) -> bool:
    """Whether this is a folder marker: nothing in it, and more below it (obstore drops its last slash)."""
    return item["size"] == 0 and (item["path"] == prefix or following.startswith(f"{item['path']}/"))


def read_from_bucket(
    scheme: str, bucket: str, key: str, patience: Patience, *, etag: str | None, size: int | None
) -> bytes:
    """All bytes of an object, which must still have that etag and size when they are given."""
    import obstore

    uri = f"{scheme}://{bucket}/{key}"
    store = _store(scheme, bucket, patience)
    deadline = time.monotonic() + patience.seconds
    for attempt in range(patience.retries + 1):
        try:
            result = obstore.get(store, key, options={"if_match": etag} if etag else None)
            data = bytes(result.bytes())
        except Exception as error:
            failure = _explained(error, uri)
        else:
            wanted = result.meta["size"] if size is None else size
            if len(data) == wanted:
                return data
            failure = TransientError(f"{uri}: {len(data)} of {wanted} bytes arrived")
        # obstore retries requests, but not a body that breaks off after its headers
        if not isinstance(failure, TransientError) or "retries" in str(failure) or time.monotonic() > deadline:
            break
        time.sleep(min(0.1 * 2**attempt, 5))
    raise failure from None


def _store(scheme: str, bucket: str, patience: Patience) -> S3Store | GCSStore:
    """A store for the environment as it is now."""
    settings = frozenset(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_")))
    return _opened(scheme, bucket, patience, hash(settings))


@lru_cache(maxsize=16)
def _opened(scheme: str, bucket: str, patience: Patience, settings: int) -> S3Store | GCSStore:
    from obstore.store import GCSStore, S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
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
    if scheme == "gs":
        return GCSStore(bucket, client_options=client, retry_config=retry)
    config: dict[str, Any] = {}
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


_CODES: dict[str, str] = {
    "AccessDenied": "access is denied",
    "AllAccessDisabled": "access is disabled",
    "AuthorizationHeaderMalformed": "the request was signed for another region; set AWS_REGION to the bucket's",
    "ExpiredToken": "the credentials have expired; renew them",
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY",
}


def _explained(error: Exception, uri: str) -> MillraceError:
    """The error in our terms. The store's own text is never passed on: it may quote keys and signatures."""
    from obstore import exceptions

    if isinstance(error, MillraceError):
        return error
    text = str(error)
    found = re.search(r"<Code>(\w+)</Code>", text)
    code = found[1] if found else ""
    scheme, _, place = uri.partition("://")
    bucket = place.partition("/")[0]
    if code == "NoSuchBucket":
        return DataError(f"{uri}: there is no bucket {bucket!r} at this endpoint")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{uri}: there is no such object")
    if isinstance(error, exceptions.PreconditionError):
        return DataError(f"{uri} was changed after it was listed; run again when nothing writes to it")
    if isinstance(error, exceptions.InvalidPathError | ValueError):
        return DataError(
            f"{uri}: a key below it has an empty part (`//`), `.` or `..` as a part, or control characters: "
            "such objects can't be read; rename them"
        )
    if code in _CODES:
        return UserError(f"{uri}: {_CODES[code]}{_rights(scheme, bucket, code)}")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return UserError(f"{uri}: access is denied{_rights(scheme, bucket, 'AccessDenied')}")
    return _unexplained(text, code, uri, scheme)


def _rights(scheme: str, bucket: str, code: str) -> str:
    if not code.startswith(("AccessDenied", "AllAccess")):
        return ""
    if scheme == "gs":
        return f"; the account needs the role Storage Object Viewer on {bucket}"
    return f"; the role needs s3:ListBucket on arn:aws:s3:::{bucket} and s3:GetObject on arn:aws:s3:::{bucket}/*"


def _unexplained(text: str, code: str, uri: str, scheme: str) -> MillraceError:
    if re.search(r"169\.254\.169\.254|metadata\.google|AssumeRoleWithWebIdentity|credential", text):
        needed = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give this host a role "
            "(AWS_SKIP_SIGNATURE=true reads public buckets)",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give this host a service account",
        }[scheme]
        return UserError(f"{uri}: no credentials were found: {needed}")
    status = re.search(r"status code: (\d{3})", text)
    number = int(status[1]) if status else 0
    if 400 <= number < 500 and number not in (408, 429) and code not in ("RequestTimeout", "SlowDown"):
        return UserError(f"{uri}: the store refused the request: {number} {code}".rstrip())
    kind = re.search(r"kind: (\w+)", text)
    reason = f"{number} {code}".strip() if number else (kind[1] if kind else "no answer")
    retries = re.search(r"after (\d+) retries", text)
    return TransientError(f"{uri} is out of reach: {reason}" + (f" after {retries[1]} retries" if retries else ""))
