"""The store in which ranks find each other: what Gloo asks of it, and what it refuses."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from millrace.errors import ConfigError
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
