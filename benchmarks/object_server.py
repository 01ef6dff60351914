"""A stand-in for S3's objects: files held in memory, given after a settable wait.

It checks no signature and costs little, so that what is measured is the client. The wait stands for what a store takes
until the first byte. How many requests were open at most is told as the object `/BUCKET/most`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import unquote

from benchmarks.stand_ins import standing_in

__all__ = ["BUCKET", "serving"]

BUCKET = "objects"
_END = b"\r\n\r\n"


class _Server:
    def __init__(self, folder: Path, wait: float) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.answers = {
            f"/{BUCKET}/{path.relative_to(folder).as_posix()}": _answer(path.read_bytes()) for path in files
        }
        self.wait = wait
        self.open = self.most = 0


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self.server = server
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # a TCP server's is one

    def data_received(self, data: bytes) -> None:
        self.received += data
        while _END in self.received:
            request, _, self.received = self.received.partition(_END)
            target = unquote(request.split(b" ", 2)[1].decode()).partition("?")[0]
            self.server.open += 1
            self.server.most = max(self.server.most, self.server.open)
            asyncio.get_running_loop().call_later(self.server.wait, self.reply, target)

    def reply(self, target: str) -> None:
        self.server.open -= 1
        if self.transport is None or self.transport.is_closing():
            return
        if target == f"/{BUCKET}/most":
            self.transport.write(_answer(str(self.server.most).encode()))
            self.server.most = 0
        else:
            self.transport.write(
                self.server.answers.get(target, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            )


def _answer(data: bytes) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nContent-Type: application/octet-stream\r\n"
        f'ETag: "{hashlib.md5(data, usedforsecurity=False).hexdigest()}"\r\n'
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    )
    return head.encode() + data


@contextlib.contextmanager
def serving(folder: Path, *, wait: float, core: int) -> Iterator[dict[str, str]]:
    """A server of a folder's files, which waits so many seconds before each answer; gives what clients need."""
    with standing_in("benchmarks.object_server", str(folder), f"--wait={wait}", core=core) as variables:
        yield variables


async def _serve(server: _Server) -> None:
    started = await asyncio.get_running_loop().create_server(lambda: _Connection(server), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}", flush=True)
    await started.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    asyncio.run(_serve(_Server(given.folder, given.wait)))
