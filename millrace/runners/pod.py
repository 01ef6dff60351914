"""What a container is made from, where its output goes, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Exit", "Log", "Pod"]


@dataclass(frozen=True)
class Pod:
    """What a container is made from."""

    name: str
    image: str
    command: tuple[str, ...]
    """A program and its arguments; with `own_entrypoint` only the arguments of the image's."""
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory: int | None = None
    """Bytes."""
    shared_memory: int | None = None
    """Bytes of /dev/shm."""
    user: str | None = None
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Named volumes by the path that they are mounted at."""
    memory_folders: Mapping[str, int | None] = field(default_factory=dict)
    """Folders in memory, with their size in bytes."""
    folders: tuple[str, ...] = ()
    """Empty folders that anybody may write to."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Small files by their path."""
    timeout: float | None = None
    """Seconds."""
    own_entrypoint: bool = False
    """The image's entry point is kept; with no command its arguments are, too."""
    network: str | None = None
    """A network of the rehearsal; without one it is the host's."""
    host: str | None = None
    """The name of the container, for itself and for others on its network."""
    ports: tuple[int, ...] = ()
    """Ports that are published on free ones of this machine's loopback."""


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    out_of_memory: bool = False
    timed_out: bool = False
    finished: str = ""
    """When, so that texts compare as times do."""


class Log(Protocol):
    """Takes what a container prints."""

    def write(self, piece: bytes, /) -> object:
        """Add bytes."""

    def flush(self) -> object:
        """Let others read what was added."""
