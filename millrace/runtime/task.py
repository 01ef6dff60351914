"""A task directory: how a task is asked for, run in a process of its own, and answered.

```text
DIR/task.json       the request                   DIR/outputs/PORT   whole outputs, put there by a rename
DIR/result.json     the answer; last to appear    DIR/partial/PORT   outputs being written
DIR/failure.json    why the last attempt failed   DIR/checkpoints/   kept from one attempt to the next
DIR/progress.json   how far it is                 DIR/log.txt        stdout and stderr of all attempts
                                                  DIR/log.start      bytes of it that are of earlier attempts
```
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue

from millrace.runtime.context import Hosts, Share
from millrace.specs import Frozen
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork

__all__ = [
    "IMPORT_PATH",
    "Failure",
    "GivenArtifact",
    "MadeArtifact",
    "TaskRequest",
    "TaskResult",
    "append_import_path",
    "launch",
    "read_failure",
    "read_result",
    "whole_result",
    "write_atomically",
]

IMPORT_PATH = "MILLRACE_IMPORT_PATH"
"""Environment variable: folders with modules of the user's own. PYTHONPATH would put them before all others."""

_TENSORFLOW_LOG = "TF_CPP_MIN_LOG_LEVEL"
"""2: errors only, unless the user says otherwise."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class GivenArtifact(Frozen):
    """An input artifact on this machine."""

    path: Path
    uri: str = ""
    """Where other machines find it; empty when they can't."""
    parts: tuple[str, ...] = ()
    """Where other machines find the artifacts that it was put together from, where there are several."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class TaskRequest(Frozen):
    """What to run: everything a worker needs to know, as `task.json`."""

    name: str
    component: str
    """`module:attribute` of the component."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, tuple[GivenArtifact, ...]] = Field(default_factory=dict)
    share: Share = Share()
    hosts: Hosts = Hosts()
    cores: int = Field(default=1, ge=1)
    run: str = ""
    """The platform's id of the run; empty where there is none."""
    cluster: ClusterWork | None = None
    """Set where the work shall be handed to a service of the cluster."""
    endpoint: EndpointWork | None = None
    """Set where SageMaker has made the endpoint already, which is to be asked and scaled."""

    def write(self, directory: Path) -> None:
        """Put the request into a task directory."""
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / "task.json", self.model_dump_json(indent=2))


class MadeArtifact(Frozen):
    """An output artifact in its task directory."""

    path: str
    """Relative to the task directory."""
    digest: str
    """SHA-256 over the names and contents of its files."""
    bytes: int
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class TaskResult(Frozen):
    """A finished task, as `result.json`."""

    outputs: dict[str, MadeArtifact]
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    peak_memory: int = 0
    """Largest resident set in bytes of the worker or of one process that it started (a rank, a trial)."""


class Failure(Frozen):
    """Why an attempt failed, as `failure.json`."""

    kind: Literal["user", "transient", "disk_full", "error"]
    message: str
    follows: bool = False
    """Only because another rank had ended before."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is seen whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def launch(
    directory: Path, environment: Mapping[str, str] | None = None, *, log: bool = True
) -> subprocess.Popen[bytes]:
    """Start a worker on a task directory, in a session of its own.

    Its output is appended to log.txt, or without `log` goes where that of this process goes.
    The worker ends itself when its standard input, a pipe, is closed: by the caller, or by the kernel
    when the caller dies.
    """
    (directory / "failure.json").unlink(missing_ok=True)
    with (directory / "log.txt").open("ab") if log else nullcontext() as output:
        if output is not None:
            write_atomically(directory / "log.start", str(output.tell()))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "millrace", "exec", "--supervised", "--task", str(directory)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
            env={_TENSORFLOW_LOG: "2", **os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )


def append_import_path() -> None:
    """Make the user's modules importable, after all others: in the folders of `IMPORT_PATH`, or in the current one."""
    for folder in os.environ.get(IMPORT_PATH, str(Path.cwd())).split(os.pathsep):
        if folder not in sys.path:
            sys.path.append(folder)


def read_result(directory: Path) -> TaskResult | None:
    """The result of a finished task; None when it is not finished or its result can't be read."""
    return _read(directory / "result.json", TaskResult)


def whole_result(directory: Path) -> TaskResult | None:
    """The result of a finished task whose outputs are all there, by their sizes; None when it must run."""
    result = read_result(directory)
    try:
        whole = result and all(_size(directory / made.path) == made.bytes for made in result.outputs.values())
    except OSError:
        return None
    return result if whole else None


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    path.stat()  # an error when it is gone
    return sum(Path(folder, name).stat().st_size for folder, _, names in os.walk(path) for name in names)


def read_failure(directory: Path) -> Failure | None:
    """Why the last attempt failed, if it said so."""
    return _read(directory / "failure.json", Failure)


def _read(path: Path, model: type[ModelT]) -> ModelT | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
