"""What goes wrong with a bucket, in our terms."""

from __future__ import annotations

import re

from millrace.errors import DataError, MillraceError, TransientError, UserError
from millrace.runtime.odd_keys import ODD_KEYS

__all__ = ["BrokenOffError", "ChangedError", "explained"]


class ChangedError(DataError):
    """An object is no longer what was listed."""


class BrokenOffError(TransientError):
    """An answer began and did not arrive whole."""


_CODES: dict[str, str] = {
    "AccessDenied": "access is denied",
    "AllAccessDisabled": "access is disabled",
    "AuthorizationHeaderMalformed": "the request was signed for another region; set AWS_REGION to the bucket's",
    "ExpiredToken": "the credentials have expired; renew them",
    "InvalidObjectState": "the object is archived; restore it, or leave it out",
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY",
}

_NO_CREDENTIALS = r"performing \w+ https?://(169\.254\.|\[?fd00:ec2|metadata\.google)|AssumeRoleWith|: Missing \w+"


def explained(error: Exception, uri: str) -> MillraceError:
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
        return ChangedError(f"{uri} was changed after it was listed; run again when nothing writes to it")
    if isinstance(error, exceptions.InvalidPathError | ValueError):
        return DataError(f"{uri}: {ODD_KEYS}")
    if code in _CODES:
        return UserError(f"{uri}: {_CODES[code]}{_rights(scheme, bucket, code)}")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return UserError(f"{uri}: access is denied{_rights(scheme, bucket, 'AccessDenied')}")
    return _unexplained(text, code, uri, scheme)


def _rights(scheme: str, bucket: str, code: str) -> str:
    if not code.startswith(("AccessDenied", "AllAccess")):
        return ""
    if scheme == "gs":
        return f"; the account needs the role Storage Object Viewer on {bucket}, to write Storage Object User"
    return (
        f"; the role needs s3:ListBucket on arn:aws:s3:::{bucket} and s3:GetObject on arn:aws:s3:::{bucket}/*, "
        "and s3:PutObject and s3:DeleteObject there to write"
    )


def _unexplained(text: str, code: str, uri: str, scheme: str) -> MillraceError:
    if re.search(_NO_CREDENTIALS, text):
        needed = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role "
            "(AWS_SKIP_SIGNATURE=true reads public buckets)",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give this host a service account "
            "(GOOGLE_SKIP_SIGNATURE=true reads public buckets)",
        }[scheme]
        return UserError(f"{uri}: no credentials were found: {needed}")
    if "Received redirect" in text:
        return UserError(f"{uri}: {_CODES['PermanentRedirect']}")
    status = re.search(r"status code: (\d{3})", text)
    number = int(status[1]) if status else 0
    if 400 <= number < 500 and number not in (408, 429) and code not in ("RequestTimeout", "SlowDown"):
        return UserError(f"{uri}: the store refused the request: {number} {code}".rstrip())
    retries = re.search(r"after (\d+) retries", text)
    tried = f" after {retries[1]} retries" if retries else ""
    if number:
        return TransientError(f"{uri} is out of reach: {number} {code}".rstrip() + tried)
    kind = re.search(r"kind: (\w+)", text)
    reason = f"{uri} is out of reach: {kind[1] if kind else 'no answer'}{tried}"
    return TransientError(reason) if retries else BrokenOffError(reason)
