"""The Docker engine of this machine: one container for each attempt of a task, files in and out as tar streams.

Nothing is mounted from the host, so a container's user may be any, and nothing that it leaves can be in the way.
"""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from millrace.errors import ConfigError, TaskFailedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Engine", "Exit", "Pieces", "Pod", "connect", "file_entry", "folder_entry"]

LABEL = "millrace.rehearsal"
OWNER = "millrace.rehearsal.owner"
_OPEN = 0o777
SCRATCH = ("s3", "gcs", "minio", "oci", ".local", ".cache", ".config", "tmp/kfp", "tmp/kfp/outputs")
"""Folders of every container that anybody may write to, as a pod's volumes are."""


@dataclass(frozen=True)
class Pod:
    """What a container is made from."""

    name: str
    image: str
    command: tuple[str, ...]
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


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    out_of_memory: bool = False
    timed_out: bool = False


class Engine:
    """A connection, and the containers and volumes of one rehearsal."""

    def __init__(self, api: Any, identity: str) -> None:
        self.api = api
        self.identity = identity
        self._labels = {LABEL: identity, OWNER: _owner()}
        self._containers: set[str] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.cpus = float(api.info()["NCPU"])

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images that the engine does not have."""
        return [image for image in sorted(set(images)) if self._image(image) is None]

    def image_id(self, image: str) -> str:
        """What tells an image from others of the same name; empty when there is none."""
        found = self._image(image)
        return str(found["Id"]) if found else ""

    def _image(self, image: str) -> Any:
        from docker.errors import ImageNotFound

        try:
            return self.api.inspect_image(image)
        except ImageNotFound:
            return None

    @contextmanager
    def container(self, pod: Pod) -> Iterator[str]:
        """A container that is made, not started, and is removed at the end."""
        from docker.errors import APIError, ImageNotFound

        if self._stopped:
            raise TaskFailedError("the rehearsal was stopped")
        try:
            made = self.api.create_container(
                pod.image,
                list(pod.command[1:]),
                entrypoint=[pod.command[0]],
                environment=dict(pod.environment),
                user=pod.user,
                labels=self._labels,
                name=pod.name,
                volumes=list(pod.volumes),
                host_config=self.api.create_host_config(
                    network_mode="host",
                    nano_cpus=int(min(pod.cpus, self.cpus) * 1e9) if pod.cpus else None,
                    mem_limit=pod.memory,
                    memswap_limit=pod.memory,
                    shm_size=pod.shared_memory,
                    binds={name: {"bind": path, "mode": "rw"} for path, name in pod.volumes.items()},
                    tmpfs={
                        path: f"mode=1777{f',size={size}' if size else ''}" for path, size in pod.memory_folders.items()
                    },
                    log_config={"Type": "json-file"},
                ),
            )["Id"]
        except ImageNotFound:
            raise ConfigError(f"the image {pod.image} is not on this machine: docker pull {pod.image}") from None
        except APIError as error:
            raise TaskFailedError(f"the Docker engine refuses the container: {error.explanation or error}") from error
        with self._lock:
            self._containers.add(made)
        try:
            if self._stopped:
                raise TaskFailedError("the rehearsal was stopped")
            yield made
        finally:
            self._remove(made)

    def _remove(self, container: str) -> None:
        from docker.errors import APIError, NotFound

        with suppress(NotFound, APIError):  # a conflict: somebody removes it already
            self.api.remove_container(container, force=True, v=True)
        with self._lock:
            self._containers.discard(container)

    def put(self, container: str, write: Callable[[tarfile.TarFile], None]) -> None:
        """Put files into a container below `/`, as `write` adds them to a tar stream."""
        reading, writing = os.pipe()
        failures: list[BaseException] = []

        def fill() -> None:
            try:
                with os.fdopen(writing, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
                    write(archive)
            except BrokenPipeError:
                pass  # the engine's answer tells why
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        try:
            with os.fdopen(reading, "rb") as stream:
                self.api.put_archive(container, "/", stream)
        finally:
            thread.join()
            if failures:
                raise failures[0]

    def run(self, container: str, log: IO[bytes], timeout: float | None) -> Exit:
        """Start a container, write its output to a log and wait for its end."""
        from docker.errors import APIError

        try:
            self.api.start(container)
        except APIError as error:
            told = f"{error.explanation or error}".strip()
            log.write(f"{told}\n".encode())
            return Exit(128)
        late = threading.Event()
        timer = threading.Timer(timeout, self._stop_late, (container, late)) if timeout else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            for piece in self.api.logs(container, stream=True, follow=True):
                log.write(piece)
                log.flush()
            code = int(self.api.wait(container)["StatusCode"])
        finally:
            if timer:
                timer.cancel()
        memory = code == 137 and bool(self.api.inspect_container(container)["State"].get("OOMKilled"))
        return Exit(code, out_of_memory=memory, timed_out=late.is_set())

    def _stop_late(self, container: str, late: threading.Event) -> None:
        from docker.errors import APIError

        late.set()
        with suppress(APIError):
            self.api.kill(container)

    def get(self, container: str, path: str, folder: Path) -> Path | None:
        """Copy a file or folder out of a container into a folder of ours; None when it is not there."""
        from docker.errors import NotFound

        try:
            stream, _ = self.api.get_archive(container, path)
        except NotFound:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        name = PurePosixPath(path).name
        links: dict[Path, str] = {}
        with tarfile.open(fileobj=io.BufferedReader(Pieces(stream), 1 << 20), mode="r|") as archive:
            for member in archive:
                if member.issym() or member.islnk():
                    inside = PurePosixPath(path).parent / member.name
                    target = inside.parent if member.issym() else PurePosixPath(path).parent
                    links[folder / member.name] = str(target / member.linkname)
                elif member.isfile() or member.isdir():
                    member.mode |= 0o700 if member.isdir() else 0o600
                    archive.extract(member, folder, set_attrs=False, filter="data")
        for place, leads in links.items():
            self._follow(container, leads, place)
        return folder / name

    def _follow(self, container: str, target: str, place: Path) -> None:
        """A link becomes what it leads to; one to a folder is none that the backend could upload."""
        found = self.get(container, os.path.normpath(target), place.parent / f".link-{place.name}")
        if found is None or found.is_dir():
            raise TaskFailedError(
                f"the backend can't upload {place.name}: it is a link to {target}, which is "
                f"{'a folder' if found else 'not there'}"
            )
        found.replace(place)
        found.parent.rmdir()

    def volume(self, name: str) -> str:
        """A volume of this rehearsal, made when it is not there yet."""
        full = f"millrace-{self.identity}-{name}"
        self.api.create_volume(full, labels=self._labels)
        return full

    def remove_volume(self, name: str) -> None:
        """Remove a volume of this rehearsal."""
        from docker.errors import APIError

        with suppress(APIError):
            self.api.remove_volume(f"millrace-{self.identity}-{name}", force=True)

    def stop(self) -> None:
        """End every container that still runs; no more are made."""
        self._stopped = True
        with self._lock:
            running = list(self._containers)
        for container in running:
            self._remove(container)

    def close(self) -> None:
        """Remove all that this rehearsal has made."""
        _remove_labelled(self.api, lambda labels: labels.get(LABEL) == self.identity)
        self.api.close()


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


def connect(identity: str) -> Engine:
    """A connection to the engine that the environment names; leftovers of rehearsals that died are removed.

    Raises:
        ConfigError: When there is none.
    """
    try:
        from docker import APIClient
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ImportError:
        raise ConfigError("a rehearsal needs the Docker SDK: pip install -e '.[rehearse]'") from None
    try:
        options: dict[str, Any] = {**kwargs_from_env(), "timeout": None}  # a container may be silent for long
        api = APIClient(**options)
        api.ping()
    except DockerException as error:
        raise ConfigError(
            f"a rehearsal needs a Docker engine, and none answers: {error}. Start one, or name it in DOCKER_HOST"
        ) from None
    _remove_labelled(api, lambda labels: OWNER in labels and not _lives(labels[OWNER]))
    return Engine(api, identity)


def _remove_labelled(api: Any, chosen: Callable[[Mapping[str, str]], bool]) -> None:
    from docker.errors import APIError

    for container in api.containers(all=True, filters={"label": LABEL}):
        if chosen(container["Labels"]):
            with suppress(APIError):
                api.remove_container(container["Id"], force=True, v=True)
    for volume in api.volumes(filters={"label": LABEL})["Volumes"] or []:
        if chosen(volume["Labels"] or {}):
            with suppress(APIError):
                api.remove_volume(volume["Name"], force=True)


def _owner() -> str:
    """This process, told from any other one that has had or will have its number."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def _lives(owner: str) -> bool:
    """Whether the process that a label names still runs; one of another machine may."""
    import psutil

    host, _, rest = owner.partition(":")
    number, _, created = rest.partition(":")
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False
