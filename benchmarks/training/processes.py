"""Starts the processes of a team, has them measure in step, and holds them still while others are measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.training.cases import Team
from benchmarks.training.stopwatch import READY
from benchmarks.training.worker import HOSTS
from millrace.errors import TaskFailedError
from millrace.runtime.launcher.environment import ranks_of, variables
from millrace.runtime.launcher.messages import Member
from millrace.runtime.launcher.network import card_of
from millrace.runtime.launcher.server import Store, serving

__all__ = ["Processes", "started"]

_HERE = "127.0.0.1"
_TAIL = 3000


class Processes:
    """Those of one team, which stand still but for their measurements."""

    def __init__(self, team: Team, processes: Sequence[subprocess.Popen[str]], errors: Sequence[Path]) -> None:
        self.team = team
        self._processes = processes
        self._errors = errors
        self._each(READY)
        self._signal(signal.SIGSTOP)

    def measure(self, steps: int, what: str = "go") -> list[dict[str, Any]]:
        """Have all take so many steps at the same time.

        Returns:
            What each has found.

        Raises:
            TaskFailedError: When one of them ends.
        """
        self._signal(signal.SIGCONT)
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(f"{what} {steps}\n")
                process.stdin.flush()
        found = [json.loads(line) for line in self._each("{")]
        self._signal(signal.SIGSTOP)
        return found

    def _each(self, begin: str) -> list[str]:
        return [self._line(number, begin) for number in range(len(self._processes))]

    def _line(self, number: int, begin: str) -> str:
        """The next line of a process that begins so; what else is printed is not for here."""
        for line in self._processes[number].stdout or ():
            if line.startswith(begin):
                return line
        told = self._errors[number].read_text()[-_TAIL:]
        raise TaskFailedError(f"process {number} of {self.team.name} ({self.team.net}) ended:\n{told}")

    def _signal(self, number: signal.Signals) -> None:
        if self.team.way == "mirrored":  # waits by itself; stopped, its heartbeats would be missed
            return
        for process in self._processes:
            process.send_signal(number)


@contextlib.contextmanager
def started(team: Team, records: Path, scratch: Path, cores: Sequence[int], seconds: float) -> Iterator[Processes]:
    """Start a team, each process on a core, and wait until it is warm; none is left behind.

    Args:
        team: What they do.
        records: What they train on.
        scratch: For their files; made by this.
        cores: At least as many as there are processes.
        seconds: After which they are ended, whatever they do.
    """
    scratch.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        errors = [scratch / f"errors-{index}.txt" for index in range(team.processes)]
        for index, environment in enumerate(_environments(team, seconds, stack)):
            arguments = [team.model_dump_json(), str(records), str(scratch), str(index), str(cores[index])]
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.training.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(errors[index].open("w")),
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            )
            stack.callback(_end, process)
            processes.append(process)
        limit = threading.Timer(seconds, _kill, [processes])
        limit.daemon = True
        limit.start()
        stack.callback(limit.cancel)
        yield Processes(team, processes, errors)


def _environments(team: Team, seconds: float, stack: contextlib.ExitStack) -> list[dict[str, str]]:
    """How each process finds the others."""
    if team.strategy == "horovod":
        members = [Member(host=0, ranks=team.processes)]
        meeting = _HERE, stack.enter_context(serving(_HERE, 0, Store())), card_of(_HERE)
        return [variables(rank, members, 0, _HERE, meeting, seconds) for rank in ranks_of(members, 0)]
    if team.strategy == "single":
        return [{}] * team.processes
    places = [f"{_HERE}:{port}" for port in _free_ports(team.processes)]
    told = {HOSTS: ",".join(places), "no_proxy": _HERE, "no_grpc_proxy": _HERE}
    if team.way != "mirrored":
        return [told] * team.processes
    tasks = [{"type": "worker", "index": index} for index in range(team.processes)]
    return [{**told, "TF_CONFIG": json.dumps({"cluster": {"worker": places}, "task": task})} for task in tasks]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((_HERE, 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in sockets]


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()


def _end(process: subprocess.Popen[str]) -> None:
    """At once: it has told all that is wanted of it."""
    process.kill()
    process.communicate()
