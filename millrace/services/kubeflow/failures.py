"""What went wrong between here and the API, as one message each that says what to do."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from millrace.errors import ConfigError

__all__ = ["ServiceError", "explain_exchange", "explain_transport", "wrong_answer"]

_ADVICE = {
    401: "it does not know who is asking. Set target.api.auth and its credentials; if they are set, they are wrong or "
    "have expired",
    403: "this account has no permission for it. Ask for the role kubeflow-edit in the namespace, or set "
    "target.api.namespace to yours",
    404: "there is no such thing there",
    409: "it exists already",
    413: "the document is too large for the server",
    429: "too many requests: try again later",
}
_SHORT = 600


class ServiceError(ConfigError):
    """The API could not be reached, or refused what was asked.

    Attributes:
        status: The HTTP status of the answer; None when there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status == 429 or self.status >= 500


def explain_exchange(host: str, request: str, error: Any, secrets: Sequence[str]) -> ServiceError:
    """An answer with a status that is no success.

    Args:
        host: The address that was asked.
        request: Method and path.
        error: A kfp_server_api.ApiException.
        secrets: Texts that must not be part of the message.
    """
    status = int(error.status or 0)
    if 300 <= status < 400:
        where = urlsplit(str((error.headers or {}).get("location", "")))
        target = f" to {where.scheme}://{where.netloc}{where.path}" if where.netloc else f" to {where.path}"
        return ServiceError(
            f"{host} redirects{target} instead of answering: mostly a login page. Log in and give the session "
            "(target.api.auth=cookies or token), or set target.api.host to the address it redirects to",
            status,
        )
    told, from_api = _told(error.body)
    told = _scrubbed(told, secrets)
    if told.startswith("<"):
        return wrong_answer(host, told, "text/html", status)
    if status == 404 and not from_api:
        return wrong_answer(host, told, "404 Not Found")
    advice = _ADVICE.get(status, "the server failed: see the logs of its ml-pipeline pods" if status >= 500 else "")
    parts = (f"{host} answers {status} to {request}", advice, told)
    return ServiceError(": ".join(part for part in parts if part), status)


def explain_transport(host: str, error: BaseException, secrets: Sequence[str]) -> ServiceError:
    """No answer at all: an error of urllib3's."""
    from urllib3 import exceptions

    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServiceError(
                f"{host}: the server's certificate can't be verified: {cause.verify_message}. "
                "Name its certificate authority: target.api.ca_file=ca.pem"
            )
    for cause in chain:
        if isinstance(cause, exceptions.SSLError | ssl.SSLError):
            return ServiceError(
                f"{host}: no TLS connection: {_scrubbed(str(cause), secrets)}. "
                "If the server speaks plain HTTP, write http:// in target.api.host"
            )
    for cause in chain:
        if isinstance(cause, exceptions.NameResolutionError):
            return ServiceError(f"{host}: there is no host of this name: check target.api.host")
        if isinstance(cause, exceptions.ReadTimeoutError):
            return ServiceError(f"{host} does not answer in time: raise target.api.timeout_seconds, or try again later")
    return ServiceError(
        f"{host} can't be reached: {_scrubbed(_reason(chain), secrets)}. Is it the right address (target.api.host)? "
        "To forward the UI's port: kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
    )


def wrong_answer(host: str, text: str, kind: str | None, status: int | None = None) -> ServiceError:
    """Something answered that is not the API."""
    what = "a web page" if "html" in (kind or "") or text.lstrip().startswith("<") else f"{kind or 'nothing readable'}"
    return ServiceError(
        f"{host} answers with {what}, not as the API of Kubeflow Pipelines does: the address leads to a login page or "
        "to another service. With Kubeflow's dashboard it ends in /pipeline: target.api.host=https://HOST/pipeline, "
        "and target.api.auth is needed",
        200 if status in (None, 404) else status,  # not the API's own word that there is no such thing
    )


def _told(body: object) -> tuple[str, bool]:
    """What the server says about it, and whether it says so as the API does, in JSON."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return _short(text), False
    named = (found.get(key) for key in ("message", "error_message", "error", "detail", "reason"))
    return _short(next((value for value in named if isinstance(value, str) and value), text)), True


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


def _scrubbed(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _reason(chain: Sequence[BaseException]) -> str:
    text = str(chain[-1]) or type(chain[-1]).__name__
    return text.rpartition("] ")[2] if text.startswith("[Errno") else text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, the deepest last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        wrapped = [
            item for item in (getattr(current, "reason", None), *current.args) if isinstance(item, BaseException)
        ]
        current = wrapped[0] if wrapped else current.__cause__ or current.__context__
