"""Answers requests to endpoints as SageMaker Runtime does."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from millrace.errors import MillraceError
from millrace.runners.sagemaker.endpoints import Hosting, NoSuchEndpointError

__all__ = ["open_front", "post"]

_PATH = re.compile(r"/endpoints/([^/]+)/invocations")
_LIMIT = 6 * 1024 * 1024
"""Bytes of a request's body, as the service has it."""
_SECONDS = 60.0
"""That a container may take for an answer."""
_PASSED = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id")


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer to a request to a container.

    Raises:
        OSError: When there is no answer.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request("POST", f"{parts.path.rstrip('/')}/invocations", body, dict(headers))
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no answer in HTTP: {type(error).__name__}") from error
    finally:
        connection.close()


@contextmanager
def open_front(hosting: Hosting) -> Iterator[str]:
    """The address of a server that answers for the endpoints of a rehearsal as long as this context lives."""
    request = type("_RequestOf", (_Request,), {"hosting": hosting})
    server = _Front(("127.0.0.1", 0), request)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    hosting.front = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hosting.front
    finally:
        server.shutdown()
        server.server_close()


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class _Request(BaseHTTPRequestHandler):
    hosting: Hosting
    """Set in the class of each server."""
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body of an answer in one piece
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer a request."""
        length = int(self.headers.get("Content-Length") or 0)
        found = _PATH.fullmatch(urlsplit(self.path).path)
        if found is None:
            self._refuse(
                404, "UnknownOperationException", f"{self.path} is not rehearsed, only /endpoints/NAME/invocations"
            )
        elif "chunked" in self.headers.get("Transfer-Encoding", ""):
            self._refuse(411, "ValidationError", "a request needs its Content-Length")
        elif length > _LIMIT:
            self._refuse(413, "ValidationError", f"the body has {length} bytes, {_LIMIT} are allowed")
        else:
            self._invoke(unquote(found[1]), self.rfile.read(length))

    def _invoke(self, name: str, body: bytes) -> None:
        hosting = self.hosting
        try:
            variant, url = hosting.choose(name, self.headers.get("X-Amzn-SageMaker-Target-Variant", ""))
        except NoSuchEndpointError:
            self._refuse(400, "ValidationError", f"Endpoint {name} of account {hosting.place.account} not found.")
            return
        except ValueError as error:
            self._refuse(400, "ValidationError", str(error))
            return
        except MillraceError as error:
            self._refuse(500, "InternalFailure", str(error))
            return
        passed = {key: value for key in _PASSED if (value := self.headers.get(key))}
        try:
            status, headers, answer = post(url, body, passed, _SECONDS)
        except OSError as error:
            status, headers, answer = 0, {}, str(error).encode()
        if 200 <= status < 300:
            attributes = headers.get("x-amzn-sagemaker-custom-attributes")
            self._answer(
                status,
                answer,
                {
                    "Content-Type": headers.get("content-type", "application/octet-stream"),
                    "x-Amzn-Invoked-Production-Variant": variant,
                    **({"X-Amzn-SageMaker-Custom-Attributes": attributes} if attributes else {}),
                },
            )
            return
        told = answer[:1024].decode(errors="replace")
        self._refuse(
            424,
            "ModelError",
            f'Received error ({status}) from {variant} with message "{told}"',
            OriginalStatusCode=status or 500,
            OriginalMessage=told,
            LogStreamArn="",
        )

    def _refuse(self, status: int, kind: str, message: str, **more: Any) -> None:
        body = json.dumps({"Message": message, **more}).encode()
        self.close_connection = True  # the body of the request may not have been read
        self._answer(status, body, {"Content-Type": "application/json", "x-amzn-ErrorType": kind})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """Requests are not told."""
