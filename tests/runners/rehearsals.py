"""`millrace rehearse` as a process, and what it has on the Docker engine: told apart from that of any other process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millrace.runners.leftovers import LABEL

Started = Callable[..., subprocess.Popen[str]]
SECONDS = 180
"""A busy machine gets that long."""


@contextmanager
def starting(folder: Path) -> Iterator[Started]:
    """Starts `millrace rehearse` in a folder; what still runs when the test has failed is ended."""
    processes = []

    def start(*words: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "millrace", "rehearse", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def left_behind(engine: Any, identity: str) -> list[str]:
    """Names of containers, networks and volumes of a rehearsal."""
    mine = {"label": f"{LABEL}={identity}"}
    found = [
        *engine.containers.list(all=True, ignore_removed=True, filters=mine),
        *engine.networks.list(filters=mine),
        *engine.volumes.list(filters=mine),
    ]
    return [item.name for item in found]


def left(engine: Any, folder: Path) -> list[str]:
    """What the rehearsals have left that were started in a folder."""
    identities = _identities(folder)
    assert identities, "none was started"
    return [name for identity in identities for name in left_behind(engine, identity)]


def wait_until_running(engine: Any, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait for a container of a rehearsal that was started in a folder."""
    deadline = time.monotonic() + SECONDS
    while not any(
        engine.containers.list(filters={"label": f"{LABEL}={identity}"}, ignore_removed=True)
        for identity in _identities(folder)
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no container was started"
        time.sleep(0.1)


def wait_until_gone(engine: Any, *identities: str) -> None:
    """Wait until nothing of rehearsals is left: other processes, too, remove what a killed one has left."""
    deadline = time.monotonic() + SECONDS
    while rest := [name for identity in identities for name in left_behind(engine, identity)]:
        assert time.monotonic() < deadline, rest
        time.sleep(0.1)


def _identities(folder: Path) -> list[str]:
    return [made.name for made in (folder / "build" / "rehearsals").glob("*")]
