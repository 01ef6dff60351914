"""What went wrong between here and AWS, as one message each that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from millrace.errors import ConfigError
from millrace.runtime.sagemaker.missing import is_missing
from millrace.targets.sagemaker import SageMaker

__all__ = ["ServiceError", "explain_answer", "explain_transport"]

_SHORT = 600
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN_KEYS = ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "AuthFailure")
_SIGNATURE = ("SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "403", "Forbidden")
_BUSY = (
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
)
_UNKNOWN_OPERATIONS = ("NotImplemented", "NotImplementedError", "UnknownOperationException", "InvalidAction")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")


class ServiceError(ConfigError):
    """AWS could not be reached, or refused what was asked.

    Attributes:
        code: The service's own word for it; empty when there was no answer.
        may_pass: Whether the same request may succeed later.
        missing: Whether what was asked about does not exist.
        unknown: Whether who answered does not know the operation at all, as stand-ins of AWS may.
    """

    def __init__(
        self, message: str, code: str = "", may_pass: bool = False, missing: bool = False, unknown: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.may_pass = may_pass
        self.missing = missing
        self.unknown = unknown


def explain_answer(error: Any, service: str, asked: Mapping[str, Any], target: SageMaker) -> ServiceError:
    """An answer that is a refusal.

    Args:
        error: A botocore.exceptions.ClientError.
        service: Which service answered, `s3` for one.
        asked: Parameters of the call.
        target: Whose settings are named in advice.
    """
    explained = _explained(error, service, asked, target)
    explained.missing = is_missing(error)
    explained.unknown = _is_unknown(error)
    return explained


def _explained(error: Any, service: str, asked: Mapping[str, Any], target: SageMaker) -> ServiceError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    told = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:_SHORT]
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    action = f"{service}:{error.operation_name}"
    for codes, say in _ANSWERS:
        if code in codes:
            return ServiceError(_joined(say(action, asked, target), told), code, may_pass=codes is _BUSY)
    if code == "NoSuchBucket" or (service == "s3" and error.operation_name == "HeadBucket" and status == 404):
        return ServiceError(_no_bucket(asked, target), "NoSuchBucket")
    if re.search(r"assume|PassRole", told) and code in ("ValidationException", "InvalidParameterValue"):
        return ServiceError(_joined(_role(action, asked, target), told), code)
    if code in ("ResourceLimitExceeded", "ServiceQuotaExceededException"):
        advice = f"{action}: a quota of this account is used up; ask for more in the console, Service Quotas"
        return ServiceError(_joined(advice, told), code)
    if _is_unknown(error):
        what = f"{action}: what answers here does not know this operation, or has failed (HTTP status {status})"
        return ServiceError(_joined(what, "" if told.startswith("<") else told), code, may_pass=status >= 500)
    if status >= 500:
        return ServiceError(_joined(f"{action}: AWS failed with {status}; try again later", told), code, may_pass=True)
    return ServiceError(_joined(f"{action} is refused with {code or status}", told), code)


def explain_transport(error: BaseException, service: str, target: SageMaker) -> ServiceError:
    """No answer at all: any other error of botocore's."""
    kind = type(error).__name__
    profile = f" --profile {target.session.profile}" if target.session.profile else ""
    if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"):
        told = f" ({error})" if kind != "NoCredentialsError" else ""
        return ServiceError(
            f"no AWS credentials{told}: `aws configure` or `aws sso login`, then target.session.profile=NAME, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with temporary ones AWS_SESSION_TOKEN too)"
        )
    if kind == "ProfileNotFound":
        return ServiceError(
            f"target.session.profile={target.session.profile}: there is no such profile; see them all: "
            "aws configure list-profiles"
        )
    if "SSO" in kind or "Token" in kind:
        return ServiceError(f"the login of this profile has ended: aws sso login{profile} ({error})")
    if kind == "ParamValidationError":
        return ServiceError(f"{service}: {' '.join(str(error).split())[:_SHORT]}")
    if kind in ("SSLError",):
        return ServiceError(
            f"{_address(error, target)}: its certificate is not trusted: name the authority's file in AWS_CA_BUNDLE"
        )
    if any(word in kind for word in ("Connect", "Timeout", "HTTPClient", "Proxy", "ResponseStreaming")):
        return ServiceError(
            f"{_address(error, target)} can't be reached: {_why(error, target)}. Check the network, "
            f"HTTPS_PROXY and target.region={target.region}; in a VPC without a way out, endpoints of the service",
            may_pass=True,
        )
    return ServiceError(f"{service}: {kind}: {' '.join(str(error).split())[:_SHORT]}")


def _is_unknown(error: Any) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.response.get("Error", {}).get("Code", ""))
    # AWS names each failure of its own; a bare 500 is the page of a web server whose application knows no answer
    return status == 501 or code in _UNKNOWN_OPERATIONS or (status == 500 and code in ("", "500"))


def _joined(advice: str, told: str) -> str:
    return f"{advice}: {told}" if told else advice


def _expired(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    profile = f" --profile {target.session.profile}" if target.session.profile else ""
    return f"the AWS credentials have expired: log in again (aws sso login{profile}), or set new ones"


def _unknown_keys(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    return "AWS does not know these credentials: see which ones are used with `aws configure list`, and set others"


def _signature(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    return "AWS does not accept the signature: the secret key is wrong, or this machine's clock is (timedatectl)"


def _denied(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    bucket = f" on s3://{asked['Bucket']}" if "Bucket" in asked else ""
    return (
        f"{action}{bucket} is not allowed to whoever these credentials are (aws sts get-caller-identity): add the "
        "action to their policy; all that are needed: millrace iam target=sagemaker"
    )


def _busy(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    return f"{action}: AWS has put off this request several times (too many from this account): try again in a minute"


def _elsewhere(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    bucket = asked.get("Bucket", target.bucket)
    return (
        f"the bucket {bucket} is not in target.region={target.region}: find its region with "
        f"`aws s3api get-bucket-location --bucket {bucket}`, then set target.region or another target.bucket"
    )


def _no_bucket(asked: Mapping[str, Any], target: SageMaker) -> str:
    bucket = asked.get("Bucket", target.bucket)
    return (
        f"there is no bucket {bucket}: aws s3 mb s3://{bucket} --region {target.region}, or name another: target.bucket"
    )


def _role(action: str, asked: Mapping[str, Any], target: SageMaker) -> str:
    role = asked.get("RoleArn") or target.role
    return (
        f"{action}: the role {role} can't be used: it must exist, trust sagemaker.amazonaws.com, and the caller must "
        "be allowed iam:PassRole on it (millrace iam target=sagemaker)"
    )


_ANSWERS: Sequence[tuple[Sequence[str], Callable[[str, Mapping[str, Any], SageMaker], str]]] = (
    (_EXPIRED, _expired),
    (_UNKNOWN_KEYS, _unknown_keys),
    (_SIGNATURE, _signature),
    (_DENIED, _denied),
    (_BUSY, _busy),
    (_ELSEWHERE, _elsewhere),
)


def _address(error: BaseException, target: SageMaker) -> str:
    found = re.search(r"https?://[^\s\"'/?]+", str(error))
    return found[0].rpartition("@")[2] if found else target.session.endpoint or "AWS"


def _why(error: BaseException, target: SageMaker) -> str:
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer within target.session.timeout_seconds={target.session.timeout_seconds:g}"
    if "Proxy" in kind:
        return "the proxy does not answer"
    cause = str(getattr(error, "kwargs", {}).get("error") or "")
    reason = re.search(r"\[Errno [-\d]+\] ([^)'\"]+)", cause)
    return reason[1].strip() if reason else "no connection"
