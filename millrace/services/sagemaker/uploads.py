"""Objects in S3 under the hash of their bytes: what is there already is not sent again."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, NamedTuple

from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.session import Session

__all__ = ["Uploaded", "default_bucket", "upload_definition"]


class Uploaded(NamedTuple):
    """An object in S3."""

    bucket: str
    key: str
    new: bool
    """Whether it was sent by this call."""

    @property
    def uri(self) -> str:
        """`s3://BUCKET/KEY`."""
        return f"s3://{self.bucket}/{self.key}"


def default_bucket(session: Session) -> str:
    """The bucket that is named, or SageMaker's own of this account and region.

    Raises:
        ServiceError: When the account can't be asked for.
    """
    return session.target.bucket or f"sagemaker-{session.region}-{session.account}"


def upload_definition(session: Session, text: str) -> Uploaded:
    """Put a definition at s3://BUCKET/PREFIX/definitions/SHA256.json, unless it is there.

    Raises:
        ServiceError: When S3 can't be reached or refuses.
    """
    data = text.encode()
    sha = hashlib.sha256(data)
    bucket, key = default_bucket(session), f"{session.target.prefix}/definitions/{sha.hexdigest()}.json"
    if _is_there(session, bucket, key):
        return Uploaded(bucket, key, new=False)
    asked: dict[str, Any] = {
        "Bucket": bucket,
        "Key": key,
        "Body": data,
        "ContentType": "application/json",
        "ChecksumSHA256": base64.b64encode(sha.digest()).decode(),
        "IfNoneMatch": "*",
    }
    if session.target.output_key:
        asked |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": session.target.output_key}
    try:
        session.call("s3", "put_object", **asked)
    except ServiceError as error:
        if error.code != "PreconditionFailed":  # else somebody else was faster, with the same bytes
            raise
        return Uploaded(bucket, key, new=False)
    return Uploaded(bucket, key, new=True)


def _is_there(session: Session, bucket: str, key: str) -> bool:
    try:
        session.call("s3", "head_object", Bucket=bucket, Key=key)
    except ServiceError as error:
        # 403 is what S3 says of a missing object to those who may not list the bucket
        if error.code in ("404", "NoSuchKey", "NotFound", "403"):
            return False
        raise
    return True
