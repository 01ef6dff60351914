"""The store in which ranks find each other: what Gloo asks of it, and what it refuses."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from millrace.errors import ConfigError
from millrace.runtime.launcher import server
from millrace.runtime.launcher.messages import Order, Report
from millrace.runtime.launcher.network import ask, place_of
from millrace.runtime.launcher.server import Store, serving


@pytest.fixture
def port() -> Iterator[int]:
    with serving("127.0.0.1", 0, Store(), lambda report, address: Order(action="wait", missing=(address,))) as found:
        yield found


def request(port: int, method: str, path: str, content: bytes = b"", size: int | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, content, {"Content-Length": str(len(content) if size is None else size)})
    response = connection.getresponse()
    return response.status, response.read()


def test_a_scope_is_emptied_when_all_ranks_have_read_it(port: int) -> None:
    for rank in "01":
        for key in (rank, f"rank_{rank}"):
            assert request(port, "PUT", f"/global/{key}", b"address") == (200, b"")
    request(port, "DELETE", "/global/0")
    assert request(port, "GET", "/global/1") == (200, b"address")
    request(port, "DELETE", "/global/1")
    assert request(port, "GET", "/global/1")[0] == 404
    assert request(port, "GET", "/global/rank_0")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("GET", "/a", 0, 400),
        ("GET", "/a/b/c", 0, 400),
        ("GET", f"/a/{'b' * 600}", 0, 400),
        ("PUT", "/a/b", 2**40, 413),
        ("PUT", "/report", 0, 400),
        ("POST", "/a/b", 0, 501),
    ],
)
def test_what_no_rank_asks_is_refused(port: int, method: str, path: str, size: int, status: int) -> None:
    assert request(port, method, path, size=size)[0] == status


def test_room_is_counted_as_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_BYTES", 10)
    monkeypatch.setattr(server, "_MOST_VALUES", 2)
    store = Store()
    for _ in range(5):
        assert store.put("scope", "0", b"12345678")  # in place of the one before
    assert not store.put("scope", "1", b"123")
    assert store.put("scope", "1", b"12")
    assert not store.put("other", "0", b"")
    store.clear()
    assert store.put("scope", "2", b"1234567890")


def test_half_a_value_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"PUT /a/b HTTP/1.0\r\nContent-Length: 100\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        assert b" 400 " in client.recv(100)
    assert request(port, "GET", "/a/b")[0] == 404


def drip(client: socket.socket) -> None:
    """Never be silent for as long as a read may take."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        client.sendall(b"G")
        time.sleep(0.1)


def test_too_many_requests_are_refused_and_slow_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_MOST_REQUESTS", 2), ("_PATIENCE_SECONDS", 0.05), ("_REQUEST_SECONDS", 1.5)):
        monkeypatch.setattr(server, name, value)
    with serving("127.0.0.1", 0, Store()) as port:
        slow = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(2)]
        with pytest.raises(OSError, match=r"reset|closed|Broken"):
            request(port, "GET", "/a/b")
        for client in slow:
            with client, pytest.raises(OSError, match=r"reset|closed|Broken"):
                drip(client)
        assert request(port, "GET", "/a/b")[0] == 404


def test_reports_are_answered(port: int) -> None:
    assert ask("127.0.0.1", port, Report(host=1)) == Order(action="wait", missing=("127.0.0.1",))


def test_a_server_of_another_kind_is_told_apart() -> None:
    with serving("127.0.0.1", 0, Store()) as port, pytest.raises(ConnectionError, match="answers 400"):
        ask("127.0.0.1", port, Report(host=1))


@pytest.mark.parametrize("given", ["0", "70000", "http", ""])
def test_ports_that_are_none(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MILLRACE_PORT", given)
    with pytest.raises(ConfigError, match="MILLRACE_PORT"):
        place_of("host")
