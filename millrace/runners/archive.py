"""Tar streams, as the Docker engine takes and gives files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Pieces", "file_entry", "folder_entry"]

_OPEN = 0o777


class Pieces(io.RawIOBase):
    """An iterator over bytes as a file."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer, or a part of it."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(bytes(piece))
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def folder_entry(path: str) -> tarfile.TarInfo:
    """A folder in a tar stream that anybody may write to."""
    entry = tarfile.TarInfo(path.strip("/"))
    entry.type = tarfile.DIRTYPE
    entry.mode = _OPEN
    return entry


def file_entry(path: str, size: int) -> tarfile.TarInfo:
    """A file in a tar stream that anybody may write to."""
    entry = tarfile.TarInfo(path.strip("/"))
    entry.size = size
    entry.mode = 0o666
    return entry
