"""Hosts of a task, each a process here with ranks of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from millrace.runtime.context import Hosts
from millrace.runtime.task import TaskRequest, launch, read_failure, read_result

__all__ = ["Group", "free_port", "group_of"]


@dataclass
class Group:
    """Hosts that share a task."""

    folder: Path
    hosts: tuple[Hosts, ...]
    request: TaskRequest
    environment: Mapping[str, str]
    processes: list[subprocess.Popen[bytes] | None]

    def directory(self, host: int) -> Path:
        return self.folder / f"host-{host}"

    def start(self, host: int) -> None:
        self.request.model_copy(update={"hosts": self.hosts[host]}).write(self.directory(host))
        self.processes[host] = launch(self.directory(host), self.environment)

    def process(self, host: int) -> subprocess.Popen[bytes]:
        process = self.processes[host]
        assert process is not None
        return process

    def wait(self, seconds: float = 60) -> list[int]:
        deadline = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes if process]
        except subprocess.TimeoutExpired:
            logs = "\n".join(self.log(host) for host in range(len(self.hosts)))
            raise AssertionError(f"not over after {seconds} s:\n{logs}") from None

    def log(self, host: int = 0) -> str:
        return (self.directory(host) / "log.txt").read_text()

    def wait_for(self, text: str, host: int = 0, seconds: float = 60, count: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while self.log(host).count(text) < count:
            assert time.monotonic() < deadline, self.log(host)
            assert self.process(host).poll() is None, self.log(host)
            time.sleep(0.02)

    def failures(self) -> list[tuple[str, str]]:
        found = [read_failure(self.directory(host)) for host in range(len(self.hosts))]
        return [(failure.kind, failure.message) if failure else ("", "") for failure in found]

    def metrics(self, host: int = 0) -> Mapping[str, float]:
        result = read_result(self.directory(host))
        assert result is not None, self.log(host)
        return result.metrics

    def ranks(self, host: int) -> list[psutil.Process]:
        """The processes of a host's ranks, in their order."""
        children = psutil.Process(self.process(host).pid).children()
        return sorted(children, key=lambda child: child.pid)

    def kill_host(self, host: int) -> None:
        """End a host with all that runs there, as a machine that is switched off."""
        own, ranks = psutil.Process(self.process(host).pid), self.ranks(host)
        own.suspend()
        for process in (*ranks, own):
            process.kill()
        self.process(host).wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def group_of(
    folder: Path,
    request: TaskRequest,
    *,
    hosts: int = 1,
    processes: int = 2,
    start: tuple[int, ...] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Iterator[Group]:
    """Start hosts; nothing of them is left afterwards."""
    port = free_port()
    names = tuple(f"127.0.0.1:{port + index}" for index in range(hosts))
    known = tuple(Hosts(names=names, index=index, processes=processes) for index in range(hosts))
    given = {"WALK_MARK": str(folder / "mark"), "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    folder.mkdir(parents=True, exist_ok=True)
    group = Group(folder, known, request, given, [None] * hosts)
    with ExitStack() as stack:
        for host in range(hosts) if start is None else start:
            group.start(host)
        stack.callback(_end, group)
        yield group


def _end(group: Group) -> None:
    for process in group.processes:
        if process is not None:
            for child in psutil.Process(process.pid).children() if process.poll() is None else ():
                child.kill()
            process.kill()
            process.wait()
