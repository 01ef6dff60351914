"""The server's process: started, waited for, stopped, handed over or replaced."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from millrace.components.deploy.server import KEEP, listen
from millrace.components.deploy.spec import DeployParameters
from millrace.errors import TaskFailedError
from millrace.runtime.limits import Limits
from millrace.runtime.task import write_atomically
from millrace.specs import Frozen

__all__ = ["Server", "started", "stop_earlier"]

_STOP_SECONDS = 30.0
_LOG_LINES = 20


class _Kept(Frozen):
    """`server.json`: a server that outlived its task. The time tells it from another process with its id."""

    pid: int
    created: float
    url: str


@dataclass
class Server:
    """A server that stops with this process unless it is handed over."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    """Holds `server.log`, and `server.json` once it is handed over."""
    kept: bool = False

    def wait_until_ready(self, seconds: float) -> None:
        """Return when the model is loaded.

        Raises:
            TaskFailedError: With the server's last lines, when it ends or takes too long.
        """
        deadline = time.monotonic() + seconds
        with httpx.Client(trust_env=False) as client:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise self.failure(f"the server ended with exit code {self.process.returncode} before it was ready")
                with suppress(httpx.TransportError):
                    if client.get(f"{self.url}/ping", timeout=2).status_code == httpx.codes.OK:
                        return
                time.sleep(0.05)
        raise self.failure(f"the server was not ready within {seconds:g} s (startup_timeout_seconds)")

    def failure(self, message: str) -> TaskFailedError:
        """An error that ends with the server's last lines."""
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return TaskFailedError("\n".join([f"{message}; its last lines:", *(f"  {line}" for line in lines)]))

    def hand_over(self) -> None:
        """Let the server outlive this process."""
        created = psutil.Process(self.process.pid).create_time()
        kept = _Kept(pid=self.process.pid, created=created, url=self.url)
        write_atomically(self.folder / "server.json", kept.model_dump_json())
        if self.process.stdin is None or self.process.poll() is not None:
            raise self.failure("the server ended before it was handed over")
        self.process.stdin.write(KEEP)
        self.process.stdin.close()
        self.kept = True

    def stop(self) -> int:
        """Ask it to end, insist when it does not, and return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def started(model: Path, parameters: DeployParameters, folder: Path) -> Iterator[Server]:
    """A server for a model; stopped on leaving, and when this process dies, unless it was handed over.

    Args:
        model: Folder of the model.
        parameters: Where to listen and what to accept.
        folder: Where its log goes.

    Raises:
        ConfigError: When the port is in use.
    """
    with listen(parameters.host, parameters.port) as listener, (folder / "server.log").open("wb") as log:
        port = listener.getsockname()[1]
        limits = {name: getattr(parameters, name) for name in Limits.model_fields}
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "millrace.components.deploy.server", "--watch-stdin"),
                *("--model", str(model.resolve()), "--name", parameters.name, "--fd", str(listener.fileno())),
                *(f"--{name.replace('_', '-')}={value}" for name, value in limits.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(listener.fileno(),),
        )
    server = Server(process, _url(parameters.host, port), folder)
    try:
        yield server
    finally:
        if not server.kept:
            server.stop()
            if process.stdin is not None:
                process.stdin.close()


def stop_earlier(folder: Path) -> str | None:
    """Stop the server that an earlier attempt in this folder left running, and return its URL."""
    file = folder / "server.json"
    try:
        kept = _Kept.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    file.unlink()
    try:
        process = psutil.Process(kept.pid)
        if abs(process.create_time() - kept.created) > 1:
            return None
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)
    except psutil.NoSuchProcess:
        return None
    return kept.url


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
