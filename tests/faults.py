"""A real HTTP proxy in front of a store that misbehaves on request."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["SLOW_DOWN", "Chooser", "Fault", "Faults", "Refusal", "faulty_proxy"]


@dataclass(frozen=True)
class Refusal:
    """An error of the store in S3's form, which quotes the request's signature as S3 does."""

    status: int
    code: str

    def body(self, authorization: str) -> bytes:
        return f"<Error><Code>{self.code}</Code><Message>{authorization}</Message></Error>".encode()


SLOW_DOWN = Refusal(503, "SlowDown")

Fault = Literal["drop", "break_off", "short", "flip", "slow", "stall"] | Refusal
"""drop: the connection is reset before an answer; break_off: it ends in the middle of the body; short: half the
body, under a Content-Length that says so; flip: one bit in the middle of the body is another; slow: the answer takes
0.3 s; stall: 3 s."""

Chooser = Callable[[int, str], Fault | None]
"""The fault, if any, of a request, by its number and path."""

_WAITS: dict[Fault | None, float] = {"slow": 0.3, "stall": 3.0}


@dataclass
class Faults:
    """A running proxy: where it is, and what it has done so far."""

    url: str = ""
    requests: int = 0
    injected: list[Fault] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    """How the requests were signed."""
    at_once: int = 0
    """Most requests that were there at a time."""


@contextmanager
def faulty_proxy(upstream: str, choose: Chooser, *, page: int = 1000) -> Iterator[Faults]:
    """Pass requests on to `upstream` but for the faults chosen, on a free port of 127.0.0.1.

    Listings come in pages of `page` objects.
    """
    faults, lock = Faults(), threading.Lock()
    open_requests: set[int] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                number = faults.requests
                fault = choose(number, self.path)
                faults.requests += 1
                open_requests.add(number)
                faults.at_once = max(faults.at_once, len(open_requests))
                faults.authorizations.add(self.headers.get("Authorization", ""))
                if fault:
                    faults.injected.append(fault)
            if "list-type=2" in self.path:
                self.path += f"&max-keys={page}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                _answer(self, upstream, body, fault)
            finally:
                with lock:
                    open_requests.discard(number)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    faults.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, upstream: str, body: bytes, fault: Fault | None) -> None:
    if fault == "drop":
        _reset(handler)
        return
    time.sleep(_WAITS.get(fault, 0))
    if isinstance(fault, Refusal):
        told = fault.body(handler.headers.get("Authorization", ""))
        _send(handler, fault.status, {"Content-Type": "application/xml"}, told, len(told))
        return
    connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=30)
    connection.request(handler.command, handler.path, body or None, dict(handler.headers))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    kept = content[: len(content) // 2] if fault in ("break_off", "short") else content
    if fault == "flip" and kept:
        middle = len(kept) // 2
        kept = kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :]
    promised = len(kept) if fault == "short" else len(content)
    if handler.command == "HEAD":
        promised = int(response.headers.get("Content-Length") or 0)
    _send(handler, response.status, dict(response.headers), kept, promised)
    if fault == "break_off":
        handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, promised: int) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(promised))
    handler.end_headers()
    handler.wfile.write(body)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """Close with a TCP reset, as a crashed server does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
