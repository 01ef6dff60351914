"""The Docker engine of this machine: one container for each attempt of a task, files in and out as tar streams.

Nothing is mounted from the host, so a container's user may be any, and nothing that it leaves can be in the way.
"""

from __future__ import annotations

import io
import ipaddress
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from millrace.errors import ConfigError, TaskFailedError
from millrace.runners.archive import Pieces
from millrace.runners.leftovers import LABEL, OWNER, lives, owner, remove_labelled
from millrace.runners.pod import Exit, Log, Pod

__all__ = ["Engine", "connect"]

SCRATCH = ("s3", "gcs", "minio", "oci", ".local", ".cache", ".config", "tmp/kfp", "tmp/kfp/outputs")
"""Folders of every container that anybody may write to, as a pod's volumes are."""
_PATIENCE = 60
"""Seconds until the engine has answered when something is to end or to be removed."""


class Engine:
    """A connection, and the containers, networks and volumes of one rehearsal."""

    def __init__(self, api: Any, ending: Any, identity: str) -> None:
        self.api = api
        self._ending = ending
        self.identity = identity
        self._labels = {LABEL: identity, OWNER: owner()}
        self._containers: set[str] = set()
        self._subnets: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self.cpus = float(api.info()["NCPU"])

    @property
    def stopped(self) -> bool:
        """Whether the rehearsal was stopped."""
        return self._stopped

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images that the engine does not have."""
        return [image for image in sorted(set(images)) if self._image(image) is None]

    def image_id(self, image: str) -> str:
        """What tells an image from others of the same name; empty when there is none."""
        found = self._image(image)
        return str(found["Id"]) if found else ""

    def user(self, image: str) -> str:
        """Whom an image's containers run as; empty when it does not say, which is root."""
        return str(((self._image(image) or {}).get("Config") or {}).get("User") or "")

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
                list(pod.command) if pod.own_entrypoint else list(pod.command[1:]),
                entrypoint=None if pod.own_entrypoint else [pod.command[0]],
                hostname=pod.host,
                ports=list(pod.ports),
                networking_config=self._joined(pod),
                environment=dict(pod.environment),
                user=pod.user,
                labels=self._labels,
                name=pod.name,
                volumes=list(pod.volumes),
                host_config=self.api.create_host_config(
                    network_mode=pod.network or "host",
                    port_bindings=dict.fromkeys(pod.ports, ("127.0.0.1", None)),
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

    def _joined(self, pod: Pod) -> Any:
        if pod.network is None:
            return None
        aliases = [pod.host] if pod.host else []
        return self.api.create_networking_config({pod.network: self.api.create_endpoint_config(aliases=aliases)})

    @contextmanager
    def network(self, name: str, *, isolated: bool = False) -> Iterator[str]:
        """A network that is removed at the end; its containers must be gone by then.

        Args:
            name: What it is called, behind the name of the rehearsal.
            isolated: Its containers reach each other, and nothing else.
        """
        from docker.errors import APIError

        full = f"millrace-{self.identity}-{name}"
        try:
            made = self.api.create_network(full, driver="bridge", internal=isolated, labels=self._labels)["Id"]
            subnet = self.api.inspect_network(made)["IPAM"]["Config"][0]["Subnet"]
        except APIError as error:
            raise TaskFailedError(f"the Docker engine refuses a network: {error.explanation or error}") from error
        if not isolated:
            self._subnets[made] = ipaddress.ip_network(subnet)
        try:
            yield full
        finally:
            self._subnets.pop(made, None)
            with suppress(APIError, OSError):  # it is removed with all others when the engine is closed
                self._ending.remove_network(made)

    def gateway(self) -> str:
        """The address of this machine on the engine's own bridge: containers on all but isolated networks reach it.

        Raises:
            ConfigError: When there is no such bridge.
        """
        import psutil
        from docker.errors import NotFound

        with suppress(NotFound):
            bridge = self.api.inspect_network("bridge")
            name = (bridge["Options"] or {}).get("com.docker.network.bridge.name", "docker0")
            for found in psutil.net_if_addrs().get(name, ()):  # what the engine tells may have no gateway
                if found.family == socket.AF_INET:
                    return str(found.address)
        raise ConfigError(
            "containers can't reach a store on this machine: the Docker engine's bridge is not here. Name a store that "
            "they reach: rehearse.endpoint=URL"
        )

    def is_ours(self, address: str) -> bool:
        """Whether an address is on a network of this rehearsal that is not isolated."""
        found = ipaddress.ip_address(address)
        return any(found in subnet for subnet in list(self._subnets.values()))

    def address(self, container: str, port: int) -> tuple[str, int] | None:
        """Where this machine reaches a port of a container: as it is published, or directly; None before it runs."""
        settings = self.api.inspect_container(container)["NetworkSettings"]
        published = (settings["Ports"] or {}).get(f"{port}/tcp")
        if published:
            return str(published[0]["HostIp"]), int(published[0]["HostPort"])
        address = next((str(joined["IPAddress"]) for joined in settings["Networks"].values()), "")
        return (address, port) if address else None

    def end(self, container: str, grace: float) -> None:
        """Send a container SIGTERM, and SIGKILL when it still runs after some seconds."""
        from docker.errors import APIError

        with suppress(APIError, OSError):
            self._ending.stop(container, timeout=max(0, round(grace)))

    def _remove(self, container: str) -> None:
        from docker.errors import APIError

        with suppress(APIError, OSError):  # a conflict: somebody removes it already; what is late: `close` tries again
            self._ending.remove_container(container, force=True, v=True)
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

    def run(self, container: str, log: Log, timeout: float | None) -> Exit:
        """Start a container, write its output to a log and wait for its end."""
        from docker.errors import APIError

        late = threading.Event()
        timer = threading.Timer(timeout, self._stop_late, (container, late)) if timeout else None
        with self._unless_stopped():
            try:
                self.api.start(container)
            except APIError as error:
                told = f"{error.explanation or error}".strip()
                log.write(f"{told}\n".encode())
                return Exit(128)
            if timer:
                timer.daemon = True
                timer.start()
            try:
                code = self._follow_output(container, log)
                state = self.api.inspect_container(container)["State"]
            finally:
                if timer:
                    timer.cancel()
        memory = code == 137 and bool(state.get("OOMKilled"))
        return Exit(code, out_of_memory=memory, timed_out=late.is_set(), finished=state["FinishedAt"].rstrip("Z"))

    def _follow_output(self, container: str, log: Log) -> int:
        """Write what a container prints to a log until it ends; its exit code."""
        whole = True
        for piece in self.api.logs(container, stream=True, follow=True):
            log.write(piece)
            log.flush()
            whole = piece.endswith(b"\n")
        code = int(self.api.wait(container)["StatusCode"])
        if whole:  # a last line without an end may be missing: engines lose it while they follow
            last = self.api.logs(container, tail=1)
            log.write(b"" if last.endswith(b"\n") else last)
        return code

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """Containers that `stop` has removed end in many ways, and all of them mean the same."""
        from docker.errors import DockerException

        try:
            yield
        except (DockerException, OSError):
            if not self._stopped:
                raise
        if self._stopped:
            raise TaskFailedError("the rehearsal was stopped")

    def _stop_late(self, container: str, late: threading.Event) -> None:
        from docker.errors import APIError

        late.set()
        with suppress(APIError, OSError):
            self._ending.kill(container)

    @contextmanager
    def read(self, container: str, path: str) -> Iterator[tarfile.TarFile | None]:
        """A file or folder of a container as a tar stream, below its own name; None when it is not there.

        The engine keeps a container locked while it is read: the answer is closed whatever happens, or nobody could
        remove the container.
        """
        from docker.errors import create_api_error_from_http_exception
        from requests import HTTPError

        # docker's own get_archive hands out a generator, which can't close the answer
        url = f"{self.api.base_url}/v{self.api.api_version}/containers/{container}/archive"
        with self.api.get(url, params={"path": path}, stream=True, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.status_code == HTTPStatus.NOT_FOUND:
                yield None
                return
            try:
                answer.raise_for_status()
            except HTTPError as error:
                create_api_error_from_http_exception(error)
            pieces = Pieces(answer.iter_content(1 << 20))
            with tarfile.open(fileobj=io.BufferedReader(pieces, 1 << 20), mode="r|") as archive:
                yield archive

    def get(self, container: str, path: str, folder: Path) -> Path | None:
        """Copy a file or folder out of a container into a folder of ours; None when it is not there."""
        name = PurePosixPath(path).name
        links: dict[Path, str] = {}
        with self.read(container, path) as archive:
            if archive is None:
                return None
            folder.mkdir(parents=True, exist_ok=True)
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

        with suppress(APIError, OSError):
            self._ending.remove_volume(f"millrace-{self.identity}-{name}", force=True)

    def stop(self) -> None:
        """End every container that still runs; no more are made."""
        self._stopped = True
        with self._lock:
            running = list(self._containers)
        for container in running:
            self._remove(container)

    def close(self) -> None:
        """Remove all that this rehearsal has made."""
        remove_labelled(self._ending, lambda labels: labels.get(LABEL) == self.identity)
        self._ending.close()
        self.api.close()


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
        options: dict[str, Any] = {**kwargs_from_env(), "timeout": _PATIENCE}
        ending = APIClient(**options)
        api = APIClient(**{**options, "timeout": None})  # a container may be silent for long
        ending.ping()
    except DockerException as error:
        raise ConfigError(
            f"a rehearsal needs a Docker engine, and none answers: {error}. Start one, or name it in DOCKER_HOST"
        ) from None
    remove_labelled(ending, lambda labels: OWNER in labels and not lives(labels[OWNER]))
    return Engine(api, ending, identity)
