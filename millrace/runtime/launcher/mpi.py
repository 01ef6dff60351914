"""Ranks that mpirun has started: the same training code, joined by Gloo. MPI itself is not needed in the processes.

The first rank serves the store, the others look for it where mpirun's variables hint at.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from millrace.errors import ConfigError, TransientError
from millrace.runtime.context import Rank
from millrace.runtime.launcher.environment import variables
from millrace.runtime.launcher.messages import Member
from millrace.runtime.launcher.network import card_of, own_address, place_of, resolve
from millrace.runtime.launcher.server import Store, serving

__all__ = ["FIRST_HOST", "SECONDS", "join", "joined", "started_by_mpirun"]

FIRST_HOST = "MILLRACE_FIRST_HOST"
"""Environment variable: the first rank's host, `NAME` or `NAME:PORT`, where it can't be found otherwise."""
SECONDS = 600.0
"""How long ranks wait for each other when nothing else is said."""
_ASK_SECONDS = 4.0
_PAUSE_SECONDS = 0.2
_NOTE_SECONDS = 30.0
_FAREWELL_SECONDS = 10.0


def started_by_mpirun(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several that mpirun has started."""
    size = environment.get("OMPI_COMM_WORLD_SIZE", "1")
    return size.isdecimal() and int(size) > 1


@contextlib.contextmanager
def joined(environment: Mapping[str, str], log: logging.Logger, seconds: float = SECONDS) -> Iterator[Rank]:
    """Meet the other ranks, and put what Horovod needs to know of them into this process's environment.

    Args:
        environment: With mpirun's variables.
        log: Told who is waited for.
        seconds: How long to wait.

    Raises:
        ConfigError: When mpirun's variables are not as expected, or the port is taken.
        TransientError: When a rank does not come.
    """
    index, size = (_number(environment, f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE"))
    job = re.sub(r"\W", "", environment.get("PMIX_NAMESPACE", "")) or "job"
    named = environment.get(FIRST_HOST, "")
    _, port = place_of(named)
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        if index == 0:
            stack.enter_context(serving("", port, Store()))
            stack.callback(_await_all, port, job, size)
            address = "127.0.0.1"
        else:
            address = _find(_candidates(environment), port, job, deadline, log)
            stack.callback(_say_done, address, port, job, index)
        names = _all_hosts(address, port, job, (index, size), deadline)
        rank, told = _place(names, index, (address, port, _card(names, index, port)), seconds)
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield rank
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def join(log: logging.Logger, seconds: float) -> None:
    """The same for the rest of this process's life, where mpirun has started it and nobody has told Horovod so."""
    if started_by_mpirun(os.environ) and "HOROVOD_RANK" not in os.environ:
        stack = contextlib.ExitStack()
        stack.enter_context(joined(os.environ, log, seconds))
        atexit.register(stack.close)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r}: mpirun of Open MPI gives a number here")
    return int(text)


def _candidates(environment: Mapping[str, str]) -> list[str]:
    """Where the first rank may be: what was said, here, the first of the hostfile, or where mpirun itself is."""
    if named := environment.get(FIRST_HOST):
        return [named.partition(":")[0]]
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environment.get("OMPI_COMM_WORLD_SIZE"):
        return ["127.0.0.1"]
    found = []
    with contextlib.suppress(OSError):
        lines = Path(environment.get("OMPI_MCA_orte_default_hostfile", "")).read_text().splitlines()
        found += [line.split()[0].partition(":")[0] for line in lines if line.strip() and line[0] != "#"][:1]
    if worker := re.fullmatch(r"(.+)-worker-\d+", socket.gethostname()):  # a pod of the MPI Operator
        found.append(f"{worker[1]}-worker-0.{worker[1]}")
    mpirun = re.search(r";tcp://([\d.,]+):\d+", environment.get("OMPI_MCA_orte_hnp_uri", ""))
    return [*found, *(mpirun[1].split(",") if mpirun else ()), "127.0.0.1"]


def _find(candidates: Sequence[str], port: int, job: str, deadline: float, log: logging.Logger) -> str:
    noted = time.monotonic()
    while True:
        for name in candidates:
            with contextlib.suppress(OSError):
                address = resolve(name)
                if _ask("GET", address, port, f"/{job}/0") is not None:
                    return address
        now = time.monotonic()
        if now > deadline:
            raise TransientError(
                f"the first rank was not found at port {port} of {', '.join(candidates)}: give its host with "
                f"mpirun -x {FIRST_HOST}=NAME"
            )
        if now - noted > _NOTE_SECONDS:
            noted = now
            log.info("looking for the first rank at port %d of %s", port, ", ".join(candidates))
        time.sleep(_PAUSE_SECONDS)


def _all_hosts(address: str, port: int, job: str, who: tuple[int, int], deadline: float) -> list[str]:
    """The host names of all ranks, by rank; each comes with the address by which the store sees it."""
    index, size = who
    _ask("PUT", address, port, f"/{job}/{index}", f"{socket.gethostname()} {address}".encode())
    names: list[str] = []
    while len(names) < size:
        told = None
        with contextlib.suppress(OSError):
            told = _ask("GET", address, port, f"/{job}/{len(names)}")
        if told is not None:
            names.append(told.decode())
        elif time.monotonic() > deadline:
            raise TransientError(f"rank {len(names)} of {size}, which mpirun was to start, did not come")
        else:
            time.sleep(_PAUSE_SECONDS)
    return names


def _say_done(address: str, port: int, job: str, index: int) -> None:
    with contextlib.suppress(OSError):  # the first rank waits for a while only
        _ask("PUT", address, port, f"/{job}/done-{index}")


def _await_all(port: int, job: str, size: int) -> None:
    """Keep the store until no other rank needs it."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    for index in range(1, size):
        while _ask("GET", "127.0.0.1", port, f"/{job}/done-{index}") is None and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)


def _place(
    names: Sequence[str], index: int, meeting: tuple[str, int, str], seconds: float
) -> tuple[Rank, dict[str, str]]:
    """Which rank this is on its host, and Horovod's variables for it."""
    hosts = [name.split()[0] for name in names]
    kinds = list(dict.fromkeys(hosts))
    own = hosts[index]
    local = [rank for rank, host in enumerate(hosts) if host == own]
    rank = Rank(index=index, size=len(names), local_index=local.index(index), local_size=len(local), launched=False)
    members = [Member(host=place, ranks=hosts.count(host)) for place, host in enumerate(kinds)]
    return rank, variables(rank, members, kinds.index(own), own, meeting, seconds)


def _card(names: Sequence[str], index: int, port: int) -> str:
    """The network card between the hosts; the first rank's is that by which others have reached it."""
    if given := os.environ.get("HOROVOD_GLOO_IFACE"):
        return given
    hosts, seen = zip(*(name.split() for name in names), strict=True)
    if hosts[index] != hosts[0]:
        return card_of(own_address(seen[index], port))
    return card_of(next((address for host, address in zip(hosts, seen, strict=True) if host != hosts[0]), "127.0.0.1"))


def _ask(method: str, address: str, port: int, path: str, content: bytes | None = None) -> bytes | None:
    connection = http.client.HTTPConnection(address, port, timeout=_ASK_SECONDS)
    try:
        connection.request(method, path, content)
        response = connection.getresponse()
        found = response.read(2**16)
        return found if response.status == http.HTTPStatus.OK else None
    except http.client.HTTPException as error:
        raise ConnectionError(f"{address}:{port}: {error}") from error
    finally:
        connection.close()
