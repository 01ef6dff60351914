"""What the first host serves: the store in which Horovod's ranks find each other, and the place of reports.

The store is what Gloo expects: values by /SCOPE/KEY over HTTP. Values, their number and their sum are bounded, and so
are the requests at a time and the seconds of each: one too many is refused. There is neither a password nor encryption,
since Gloo's own connections have none.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from pydantic import ValidationError

from millrace.errors import ConfigError
from millrace.runtime.launcher.messages import Order, Report

__all__ = ["PORT", "REPORTS", "Store", "serving"]

PORT = 29400
"""Where the first host listens when nothing else is said."""
REPORTS = "/report"
_REQUEST_SECONDS = 10.0
_LONGEST_VALUE = 4 * 2**20
_LONGEST_KEY = 512
_MOST_VALUES = 100_000
_MOST_BYTES = 256 * 2**20
_MOST_REQUESTS = 256
_PATIENCE_SECONDS = 1.0
"""How long one request too many waits before it is refused."""


class Store:
    """Values by scope and key; a scope is emptied when all ranks that wrote into it have read what they need."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[str, bytes]] = {}
        self._finished: dict[str, set[str]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, scope: str, key: str) -> bytes | None:
        """A value, if it is there."""
        with self._lock:
            return self._scopes.get(scope, {}).get(key)

    def put(self, scope: str, key: str, value: bytes) -> bool:
        """Keep a value; False when there is no room."""
        with self._lock:
            before = self._scopes.get(scope, {}).get(key)
            size = self._bytes + len(value) - len(before or b"")
            count = sum(map(len, self._scopes.values())) + (before is None)
            if size > _MOST_BYTES or count > _MOST_VALUES:
                return False
            self._scopes.setdefault(scope, {})[key] = value
            self._bytes = size
            return True

    def finish(self, scope: str, key: str) -> None:
        """Note that one of those that wrote needs no more."""
        with self._lock:
            finished = self._finished.setdefault(scope, set())
            finished.add(key)
            written = {name for name in self._scopes.get(scope, {}) if name.isdecimal()}  # one for each rank
            if finished >= written:
                self._drop(scope)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._scopes.clear()
            self._finished.clear()
            self._bytes = 0

    def _drop(self, scope: str) -> None:
        self._bytes -= sum(map(len, self._scopes.pop(scope, {}).values()))
        self._finished.pop(scope, None)


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], store: Store, answer: Callable[[Report, str], Order] | None) -> None:
        super().__init__(address, _Handler)
        self.store = store
        self.answer = answer
        self._free = threading.BoundedSemaphore(_MOST_REQUESTS)
        self._begun: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, of which there are at most so many."""
        if not self._free.acquire(timeout=_PATIENCE_SECONDS):
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room for another one afterwards."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def service_actions(self) -> None:
        """End requests that take too long, however busy their clients are."""
        late = time.monotonic() - _REQUEST_SECONDS
        for request, begun in list(self._begun.items()):
            if begun < late:
                with suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        del self._begun[request]
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS

    def __init__(self, request: Any, client_address: Any, server: _Server) -> None:
        self.store, self.answer = server.store, server.answer
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        if (place := self._place()) is not None:
            value = self.store.get(*place)
            self._send(HTTPStatus.NOT_FOUND if value is None else HTTPStatus.OK, value or b"")

    def do_PUT(self) -> None:
        content = self._content()
        if content is None:
            return
        if self.path == REPORTS and self.answer is not None:
            self._report(self.answer, content)
        elif (place := self._place()) is not None:
            kept = self.store.put(*place, content)
            self._send(HTTPStatus.OK if kept else HTTPStatus.INSUFFICIENT_STORAGE)

    def do_DELETE(self) -> None:
        if (place := self._place()) is not None:
            self.store.finish(*place)
            self._send(HTTPStatus.OK)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        """Requests are no news."""

    def _report(self, answer: Callable[[Report, str], Order], content: bytes) -> None:
        try:
            report = Report.model_validate_json(content)
        except ValidationError:
            self._send(HTTPStatus.BAD_REQUEST)
            return
        here = str(self.connection.getsockname()[0])
        self._send(HTTPStatus.OK, answer(report, here).model_dump_json().encode())

    def _place(self) -> tuple[str, str] | None:
        words = self.path.split("/")
        if len(words) == 3 and not words[0] and all(words[1:]) and len(self.path) <= _LONGEST_KEY:
            return words[1], words[2]
        self._send(HTTPStatus.BAD_REQUEST)
        return None

    def _content(self) -> bytes | None:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > _LONGEST_VALUE:
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        content = self.rfile.read(int(size))
        if len(content) < int(size):
            self._send(HTTPStatus.BAD_REQUEST)
            return None
        return content

    def _send(self, status: HTTPStatus, content: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(
    address: str, port: int, store: Store, answer: Callable[[Report, str], Order] | None = None
) -> Iterator[int]:
    """Serve a store, and orders to reports, from a thread of this process.

    Args:
        address: Where to listen; empty for all addresses.
        port: 0 for any that is free.
        store: What ranks write and read.
        answer: Called with a report, and the address of this host by which it came.

    Raises:
        ConfigError: When the port is taken.
    """
    try:
        server = _Server((address, port), store, answer)
    except OSError as error:
        raise ConfigError(
            f"can't listen at port {port} for the other hosts ({error.strerror}): set MILLRACE_PORT to one that is free"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
