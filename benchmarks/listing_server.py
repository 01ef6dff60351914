"""A stand-in for S3's listing: pages of keys that were rendered ahead, after a settable wait.

It answers ListObjectsV2 (prefix, delimiter, continuation-token, start-after) for one bucket of made-up keys, as fast
as a client can ask, so that what is measured is the client: S3 itself answers a request in some tens of milliseconds
and takes many at a time, and that wait can be set. It checks no signature and holds no objects.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.machine import cores
from benchmarks.stand_ins import standing_in

__all__ = ["BUCKET", "PREFIX", "Keys", "serving"]

BUCKET = "listing"
PREFIX = "data"
_PAGE = 1000
_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-0{day}T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


@dataclass(frozen=True)
class Keys:
    """`data/class-0007/image-000000123.jpg`: all of one width, so that the position of a key is arithmetic."""

    number: int
    prefixes: int

    @property
    def below(self) -> int:
        """Keys of each prefix."""
        return self.number // self.prefixes

    def prefix(self, place: int) -> str:
        return f"{PREFIX}/class-{place:04}/"

    def key(self, position: int) -> str:
        return f"{self.prefix(position // self.below)}image-{position:09}.jpg"

    def entry(self, position: int) -> str:
        size = 10_000 + position * 7919 % 90_000
        etag = hashlib.md5(str(position).encode(), usedforsecurity=False).hexdigest()
        return _ENTRY.format(key=self.key(position), day=1 + position % 9, etag=etag, size=size)

    def first(self, text: str) -> int:
        """Position of the first key that is not below `text` in order."""
        low, high = 0, self.number
        while low < high:
            middle = (low + high) // 2
            if self.key(middle) < text:
                low = middle + 1
            else:
                high = middle
        return low


def _rendered(keys: Keys, file: IO[bytes]) -> mmap.mmap:
    """Every key's part of a page, one after the other."""
    for start in range(0, keys.number, 10_000):
        stop = min(keys.number, start + 10_000)
        file.write("".join(map(keys.entry, range(start, stop))).encode())
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Server:
    def __init__(self, keys: Keys, entries: mmap.mmap, wait: float) -> None:
        self.keys, self.entries, self.wait = keys, entries, wait
        self.width = len(entries) // keys.number
        self.requests = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                if self.wait:
                    await asyncio.sleep(self.wait)
                parts = self.page(request.split(b" ", 2)[1].decode())
                head = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n"
                writer.write(head.format(sum(map(len, parts))).encode() + parts[0])
                for part in parts[1:]:
                    writer.write(part)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def page(self, target: str) -> list[bytes]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query, keep_blank_values=True).items()}
        prefix = query.get("prefix", "")
        after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
        first = max(self.keys.first(prefix), self.keys.first(f"{after}\0") if after else 0)
        last = self.keys.first(f"{prefix}\U0010ffff") if prefix else self.keys.number
        size = min(_PAGE, int(query.get("max-keys", _PAGE)))
        if query.get("delimiter") == "/":
            return self.level(prefix, after, first, last, size)
        stop = min(last, first + size)
        return self.document(
            self.entries[first * self.width : stop * self.width],
            stop - first,
            self.keys.key(stop - 1) if stop < last else "",
        )

    def level(self, prefix: str, after: str, first: int, last: int, size: int) -> list[bytes]:
        """What is directly below a prefix: its folders, and the keys of a deepest one."""
        items = list(self.level_items(prefix, after, first, last, size + 1))
        token = items[size - 1][0] if len(items) > size else ""
        return self.document(b"".join(body for _, body in items[:size]), min(size, len(items)), token)

    def level_items(self, prefix: str, after: str, first: int, last: int, size: int) -> Iterator[tuple[str, bytes]]:
        position = first
        while position < last and size:
            key = self.keys.key(position)
            name, slash, _ = key[len(prefix) :].partition("/")
            if not slash:
                yield key, self.entries[position * self.width : (position + 1) * self.width]
                position, size = position + 1, size - 1
                continue
            folder = f"{prefix}{name}/"
            if folder != after:
                yield folder, f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>".encode()
                size -= 1
            position = self.keys.first(f"{folder}\U0010ffff")

    def document(self, body: bytes, number: int, token: str) -> list[bytes]:
        begin = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix></Prefix><KeyCount>{number}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
            f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
        )
        end = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        return [begin.encode(), body, f"{end}</ListBucketResult>".encode()]


@contextmanager
def serving(keys: int, prefixes: int, milliseconds: float) -> Iterator[dict[str, str]]:
    """Serve on the last core; gives the environment in which clients find it."""
    arguments = (f"--keys={keys}", f"--prefixes={prefixes}", f"--milliseconds={milliseconds}")
    with standing_in("benchmarks.listing_server", *arguments, core=cores()[-1]) as variables:
        yield variables


async def _serve(server: _Server) -> None:
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    async with listening:
        await listening.serve_forever()


def main() -> None:
    """Serve until ended; the first line printed is the URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--prefixes", type=int, default=100)
    parser.add_argument("--milliseconds", type=float, default=20)
    options = parser.parse_args()
    keys = Keys(options.keys, options.prefixes)
    with tempfile.TemporaryFile() as file:
        asyncio.run(_serve(_Server(keys, _rendered(keys, file), options.milliseconds / 1000)))


if __name__ == "__main__":
    main()
