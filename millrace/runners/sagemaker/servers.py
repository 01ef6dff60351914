"""Containers that serve a model, as the service's hosting and transform jobs run them."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.errors import TaskFailedError, UnsupportedError
from millrace.runners.pod import Exit
from millrace.runners.sagemaker.containers import Host, Job, LineLog, machine_failures, open_hosts
from millrace.runners.sagemaker.contract import base_environment
from millrace.runners.sagemaker.models import model_filling
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.unsupported import model_problems

__all__ = ["Server", "open_server"]

_PORT = 8080
_PING_SECONDS = 2.0
_PAUSE = 0.2
_GRACE = 30.0
"""Seconds that the service lets a server end in."""
_LINES = 20


@dataclass(frozen=True)
class Server:
    """Containers of one model that answer."""

    urls: tuple[str, ...]
    """One for each instance, without a path."""
    logs: tuple[Path, ...]

    @property
    def url(self) -> str:
        """The first instance."""
        return self.urls[0]


@contextlib.contextmanager
def open_server(
    place: Place,
    name: str,
    container: Mapping[str, Any],
    instances: int = 1,
    *,
    isolated: bool = False,
    timeout: float = 240,
) -> Iterator[Server]:
    """A model's containers as long as this context lives: they answer /ping before it begins.

    Args:
        place: Where they run.
        name: What they are called: a folder of logs, no other server's.
        container: A ContainerDefinition without open expressions.
        instances: How many there are.
        isolated: EnableNetworkIsolation of the model.
        timeout: Seconds until /ping must answer.

    Raises:
        TaskFailedError: When one ends or does not answer; with the last lines of its log.
        UnsupportedError: When the definition has parts that can't be rehearsed.
    """
    if problems := model_problems(container):
        raise UnsupportedError(f"{name} can't be rehearsed: " + "; ".join(problems))
    job = Job(
        name=name,
        image=container["Image"],
        entrypoint=(),
        arguments=("serve",),
        environment={**base_environment(place, isolated=isolated), **container.get("Environment", {})},
        isolated=isolated,
        ports=(_PORT,),
    )
    folder = place.logs(name)
    hosts = [Host(f"instance-{number}", fill=model_filling(place, container)) for number in range(1, instances + 1)]
    logs = tuple(folder / f"{host.name}.log" for host in hosts)
    with contextlib.ExitStack() as stack:
        with machine_failures():
            made = stack.enter_context(open_hosts(place, job, hosts))
            running = [_Running(place, one, log) for one, log in zip(made, logs, strict=True)]
            stack.callback(_end_all, place, running)
            deadline = time.monotonic() + timeout
            urls = tuple(one.wait(deadline, timeout) for one in running)
        yield Server(urls, logs)


def _end_all(place: Place, running: Sequence[_Running]) -> None:
    """Let all end at the same time."""
    enders = [
        threading.Thread(target=place.engine.end, args=(one.container, min(_GRACE, place.grace)), daemon=True)
        for one in running
    ]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join()
    for one in running:
        one.thread.join(timeout=_GRACE)


class _Running:
    """A container that was started, and its log."""

    def __init__(self, place: Place, container: str, log: Path) -> None:
        self.container = container
        self._engine = place.engine
        self._log = log
        self._ended: list[Exit] = []
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        with contextlib.suppress(TaskFailedError), contextlib.closing(LineLog(self._log, "", None)) as log:
            self._ended.append(self._engine.run(self.container, log, None))

    def wait(self, deadline: float, seconds: float) -> str:
        """Its URL, once it answers."""
        while time.monotonic() < deadline:
            if not self.thread.is_alive():
                code = f" with exit code {self._ended[0].code}" if self._ended else ""
                raise TaskFailedError(f"the model's container ended{code} before it answered /ping{self._last_lines()}")
            url = self._url()
            if url and _answers(url):
                return url
            time.sleep(_PAUSE)
        raise TaskFailedError(
            f"the model's container did not answer /ping with 200 within {seconds:g} s{self._last_lines()}"
        )

    def _url(self) -> str | None:
        found = self._engine.address(self.container, _PORT)
        return f"http://{found[0]}:{found[1]}" if found else None

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LINES:] if self._log.exists() else []
        return ". Its log ends with:\n" + "\n".join(f"  {line}" for line in lines) if lines else "; its log is empty"


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/ping", timeout=_PING_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
