"""A way for containers to a store that listens on this machine's loopback address only.

The relay listens at the address of the Docker engine's bridge, which is on no network of the world, and serves nobody
but containers on networks that this rehearsal made; isolated ones are not among them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from millrace.errors import ConfigError
from millrace.runners.engine import Engine

__all__ = ["for_containers"]

_TIMEOUT = 30.0


@contextlib.contextmanager
def for_containers(endpoint: str, engine: Engine) -> Iterator[str]:
    """The URL at which containers on networks of their own reach an endpoint, as long as this context lives.

    Raises:
        ConfigError: When there is no way.
    """
    parts = urlsplit(endpoint)
    if not _is_loopback(parts.hostname or ""):
        yield endpoint
        return
    if parts.scheme != "http":
        raise ConfigError(
            f"rehearse.endpoint={endpoint} is this machine's loopback, which containers reach under another name, and "
            "its certificate would be wrong there: use http, or a name that containers can resolve"
        )
    gateway = engine.gateway()
    relay = _Relay((gateway, 0), (parts.hostname or "localhost", parts.port or 80), engine)
    thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{gateway}:{relay.server_address[1]}{parts.path}"
    finally:
        relay.shutdown()
        relay.server_close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Relay(socketserver.ThreadingTCPServer):
    """Passes each connection on."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], target: tuple[str, int], engine: Engine) -> None:
        self._target = target
        self._engine = engine
        super().__init__(address, socketserver.BaseRequestHandler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Only containers of the rehearsal are served."""
        return self._engine.is_ours(client_address[0])

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Pass bytes in both directions until both sides have ended."""
        with contextlib.suppress(OSError), socket.create_connection(self._target, timeout=_TIMEOUT) as store:
            store.settimeout(None)
            back = threading.Thread(target=_pass_on, args=(store, request), daemon=True)
            back.start()
            _pass_on(request, store)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 18):
            target.sendall(piece)
    except OSError:
        pass  # one side is gone: the other one is told by the end of its stream
    finally:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
