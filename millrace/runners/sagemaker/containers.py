"""The hosts of one job: containers on a network of their own, from their files to their exit codes."""

from __future__ import annotations

import contextlib
import queue
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

from millrace.errors import TaskFailedError, explain_os_error
from millrace.runners.archive import file_entry
from millrace.runners.pod import Exit, Pod
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.staging import Item, add_files, add_folders

__all__ = ["Host", "Input", "Job", "LineLog", "Outcome", "Watch", "machine_failures", "open_hosts", "run_hosts"]

Watch = Callable[[str, str], None]
"""Takes a host and a line of its log."""
Cause = Literal["ended", "stopped", "late", "interrupted"]
_POLL = 0.1
_OTHERS_GRACE = 5.0
"""Seconds that the other hosts get after one has failed."""


@dataclass(frozen=True)
class Input:
    """A folder of a host, and the objects in it."""

    path: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Host:
    """What one host finds."""

    name: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    inputs: Sequence[Input] = ()
    folders: Sequence[str] = ()
    fill: Callable[[tarfile.TarFile], None] | None = None
    """Adds what else there is."""


@dataclass(frozen=True)
class Job:
    """What all hosts have in common."""

    name: str
    image: str
    entrypoint: Sequence[str]
    """Instead of the image's; empty to keep that."""
    arguments: Sequence[str]
    environment: Mapping[str, str]
    isolated: bool
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Why a job's containers do not run any more."""

    cause: Cause
    exits: Sequence[Exit]
    """In the order of the hosts."""

    def first_failure(self) -> int | None:
        """The host that failed first; None when all did well."""
        failed = [(ended.finished, index) for index, ended in enumerate(self.exits) if ended.code != 0]
        return min(failed)[1] if failed else None


@contextlib.contextmanager
def machine_failures() -> Iterator[None]:
    """What goes wrong on this machine, in the terms of a job that failed."""
    from docker.errors import DockerException

    try:
        yield
    except OSError as error:
        raise TaskFailedError(f"this machine failed: {explain_os_error(error)}") from error
    except DockerException as error:
        raise TaskFailedError(f"the Docker engine failed: {str(error)[:500]}") from error


@contextlib.contextmanager
def open_hosts(place: Place, job: Job, hosts: Sequence[Host]) -> Iterator[list[str]]:
    """Containers that have their files and do not run yet; they and their network are removed at the end."""
    salt = uuid.uuid4().hex[:8]
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(place.engine.network(f"{job.name}-{salt}", isolated=job.isolated))
        made = []
        for host in hosts:
            pod = Pod(
                name=f"millrace-{place.engine.identity}-{job.name}-{salt}-{host.name}",
                image=job.image,
                command=(*job.entrypoint, *job.arguments),
                own_entrypoint=not job.entrypoint,
                environment=job.environment,
                network=network,
                host=host.name,
                # of an isolated network nothing can be published: it is asked at its own address
                ports=() if job.isolated else job.ports,
            )
            container = stack.enter_context(place.engine.container(pod))
            place.engine.put(container, _filling(place, host))
            made.append(container)
        yield made


def _filling(place: Place, host: Host) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        add_folders(archive, ["/opt/ml", *host.folders, *(each.path for each in host.inputs)])
        add_folders(archive, sorted({file.rpartition("/")[0] for file in host.files}))
        for path, content in host.files.items():
            archive.addfile(file_entry(path, len(content)), BytesIO(content))
        for each in host.inputs:
            add_files(place, archive, each.path, each.items)
        if host.fill:
            host.fill(archive)

    return fill


class LineLog:
    """A log file whose lines are told as they come."""

    def __init__(self, path: Path, host: str, watch: Watch | None, *, more: bool = False) -> None:
        self._file = path.open("ab" if more else "wb")
        self._host = host
        self._watch = watch
        self._rest = b""

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        self._file.write(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._tell(line)

    def flush(self) -> None:
        """Let others read what was added."""
        self._file.flush()

    def close(self) -> None:
        """Tell a last line without an end, too."""
        if self._rest:
            self._tell(self._rest)
        self._file.close()

    def _tell(self, line: bytes) -> None:
        if self._watch:
            self._watch(self._host, line.decode(errors="replace").rstrip("\r"))


def run_hosts(
    place: Place,
    containers: Sequence[str],
    logs: Mapping[str, Path],
    watch: Watch | None,
    *,
    stop: threading.Event | None = None,
    deadline: float | None = None,
    interrupt: float | None = None,
    more: bool = False,
) -> Outcome:
    """Start containers and wait until the last one has ended.

    The first one that fails ends the others.

    Args:
        place: Where they run.
        containers: They, in the order of the hosts.
        logs: A file for each host.
        watch: Takes lines of their logs.
        stop: Ends all when it is set.
        deadline: When all are ended, on the monotonic clock.
        interrupt: When all are taken away, on the monotonic clock.
        more: Add to the logs of an earlier attempt.

    Raises:
        TaskFailedError: When the rehearsal was stopped.
    """
    ends: queue.SimpleQueue[tuple[int, Exit | BaseException]] = queue.SimpleQueue()

    def follow(index: int, host: str) -> None:
        ended: Exit | BaseException
        try:
            with contextlib.closing(LineLog(logs[host], host, watch, more=more)) as log:
                ended = place.engine.run(containers[index], log, None)
        except BaseException as error:
            ended = error
        ends.put((index, ended))

    for index, host in enumerate(logs):
        threading.Thread(target=follow, args=(index, host), daemon=True).start()
    exits: dict[int, Exit] = {}
    cause: Cause = "ended"
    ending = False
    while len(exits) < len(containers):
        with contextlib.suppress(queue.Empty):
            index, ended = ends.get(timeout=_POLL)
            if isinstance(ended, BaseException):
                raise ended
            exits[index] = ended
        running = [container for index, container in enumerate(containers) if index not in exits]
        if ending or not running:
            continue
        failed = any(ended.code for ended in exits.values())
        cause = "ended" if failed else _cause(stop, deadline, interrupt)
        if failed or cause != "ended":
            ending = True
            _end(place, running, _OTHERS_GRACE if failed else place.grace)
    return Outcome(cause, [exits[index] for index in range(len(containers))])


def _cause(stop: threading.Event | None, deadline: float | None, interrupt: float | None) -> Cause:
    """Why running hosts must end now."""
    now = time.monotonic()
    if stop and stop.is_set():
        return "stopped"
    if deadline is not None and now >= deadline:
        return "late"
    return "interrupted" if interrupt is not None and now >= interrupt else "ended"


def _end(place: Place, containers: Sequence[str], grace: float) -> None:
    """Let containers end, all at the same time."""
    for container in containers:
        threading.Thread(target=place.engine.end, args=(container, min(grace, place.grace)), daemon=True).start()
