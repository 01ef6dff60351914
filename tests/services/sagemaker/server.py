"""The HTTP side of AWS on this machine: what is answered here, and what moto answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from werkzeug.serving import WSGIRequestHandler

from tests.services.sagemaker.asked import Call, read_call
from tests.services.sagemaker.executions import RefusalError

__all__ = ["Answer", "Application", "Fake", "Quiet"]

Answer = dict[str, Any]


class Fake(Protocol):
    """What answers."""

    moto: Any

    def answer(self, call: Call, body: bytes) -> Answer | bytes | None: ...

    def changes_answer(self, call: Call) -> bool: ...

    def changed(self, call: Call, answer: Answer) -> Answer: ...


class Application:
    """The server's WSGI application."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = b""
        if environ.get("CONTENT_LENGTH"):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
        headers = {name[5:].lower().replace("_", "-"): str(value) for name, value in environ.items() if "HTTP_" in name}
        call = read_call(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], headers, body)
        try:
            answer = self.fake.answer(call, body)
        except RefusalError as refusal:
            return _refused(call, refusal, start)
        if answer is None and self.fake.changes_answer(call):
            return self._changed(call, environ, start)
        if answer is None:
            found: Iterable[bytes] = self.fake.moto(environ, start)
            return found
        return _sent(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), start)

    def _changed(self, call: Call, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        told: list[Any] = []
        data = b"".join(self.fake.moto(environ, lambda *words: told.extend(words)))
        if not str(told[0]).startswith("200"):
            start(*told)
            return [data]
        return _sent(json.dumps(self.fake.changed(call, json.loads(data))).encode(), start)


def _sent(data: bytes, start: Callable[..., Any], status: str = "200 OK") -> Iterable[bytes]:
    kind = "text/xml" if data.startswith(b"<") else "application/x-amz-json-1.1"
    start(status, [("Content-Type", kind), ("Content-Length", str(len(data)))])
    return [data]


def _refused(call: Call, refusal: RefusalError, start: Callable[..., Any]) -> Iterable[bytes]:
    """An error in the words of the service's protocol."""
    inner = f"<Code>{refusal.code}</Code><Message>{refusal}</Message>"
    if call.service == "s3":
        text = f"<Error>{inner}</Error>"
    elif call.service in ("sts", "iam"):
        text = f"<ErrorResponse><Error>{inner}</Error></ErrorResponse>"
    else:
        text = json.dumps({"__type": refusal.code, "message": str(refusal), "Message": str(refusal)})
    data = b"" if call.operation.startswith("HEAD") else text.encode()
    return _sent(data, start, f"{refusal.status} Refused")


class Quiet(WSGIRequestHandler):
    """Writes no lines about requests."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        return
