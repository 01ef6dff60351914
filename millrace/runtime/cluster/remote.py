"""A task on the hosts of a cluster job: `millrace exec COMPONENT --remote` in each of its pods.

The step of the pipeline puts the task into an environment variable. Each host brings the inputs from their URIs
and does the work; the first one uploads the outputs and, last, a small result that says they are whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from millrace.errors import ConfigError, MillraceError, TransientError, UserError, explain_os_error, explain_validation
from millrace.registry import AnyComponent, load_component
from millrace.runtime.cluster.transfer import download, read_text, upload, write_text
from millrace.runtime.context import Hosts, Share
from millrace.runtime.kubeflow import kept_checkpoints
from millrace.runtime.process import StoppedError, cores_allowed, follow, stop_on_signals, unexplained
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult, read_failure, read_result
from millrace.runtime.union import add_tree, symbolic_link
from millrace.specs import Frozen, Port

__all__ = ["HOSTS", "TASK", "HostFailure", "RemoteArtifact", "RemoteTask", "read_remote_result", "run"]

TASK = "MILLRACE_REMOTE_TASK"
"""Environment variable: a RemoteTask as JSON."""
HOSTS = "MILLRACE_HOSTS"
"""Environment variable: the names of the hosts with commas between them, where they are not the usual ones."""
TERMINATION_LOG = "MILLRACE_TERMINATION_LOG"
"""Environment variable: where Kubernetes takes a failed container's message from, if not from the usual file."""


class RemoteArtifact(Frozen):
    """An input artifact by its URI."""

    uri: str = ""
    parts: tuple[str, ...] = ()
    """URIs of the artifacts that it is to be put together from, instead of one."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class RemoteTask(Frozen):
    """What the hosts of a job shall do."""

    name: str
    run: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, tuple[RemoteArtifact, ...]] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    """URIs by port; those that are not named are thrown away."""
    share: Share = Share()
    processes: int = 1
    hosts: tuple[str, ...] = ("localhost",)
    result: str = ""
    """URI of the TaskResult, written when the outputs are whole; empty when nobody needs it."""


class HostFailure(Frozen):
    """Why a host failed, as the message of its container."""

    kind: Literal["user", "transient", "disk_full", "error", "stopped"]
    message: str
    at: float
    """Seconds since 1970."""


def run(words: Sequence[str]) -> int:
    """Do this host's part of the task in the environment and return the exit code."""
    try:
        with stop_on_signals(), tempfile.TemporaryDirectory(prefix="millrace-", ignore_cleanup_errors=True) as folder:
            return _run(words, Path(folder))
    except OSError as error:
        _tell("error", explain_os_error(error))
        raise
    except MillraceError as error:
        _tell(next((kind for base, kind in _KINDS.items() if isinstance(error, base)), "error"), str(error))
        raise


_KINDS: dict[type[MillraceError], str] = {StoppedError: "stopped", UserError: "user", TransientError: "transient"}


def _run(words: Sequence[str], folder: Path) -> int:
    names = [word for word in words if word != "--remote"]
    if len(names) != 1:
        raise UserError("usage: millrace exec COMPONENT --remote (in the pods of a cluster job)")
    component, task = load_component(names[0]), _task()
    index = _index(os.environ)
    hosts = Hosts(names=_hosts(task), index=index, processes=task.processes)
    if index >= len(hosts.names):
        raise ConfigError(f"this is host {index}, the task has {len(hosts.names)}")
    print(f"host {index} of {len(hosts.names)}: {hosts.names[index]}", flush=True)
    inputs = {port.name: _given(task, port, folder / "inputs") for port in component.spec.inputs}
    request = TaskRequest(
        name=task.name,
        component=names[0],
        parameters=task.parameters,
        inputs=inputs,
        share=task.share,
        hosts=hosts,
        cores=cores_allowed(),
        run=task.run,
    )
    request.write(folder / "task")
    kept = kept_checkpoints(request)
    if kept is not None:
        kept = kept / f"host-{index}"
        kept.mkdir(parents=True, exist_ok=True)
        (folder / "task" / "checkpoints").symlink_to(kept)
    code = follow(folder / "task")
    result = read_result(folder / "task")
    if code != 0 or result is None:
        failure = read_failure(folder / "task") or unexplained(code, folder)
        _tell(failure.kind, failure.message)
        return code if code > 0 else 1
    if index == 0 and task.result:
        _publish(component, task, folder / "task", result)
    if kept is not None and index == 0:  # now nobody needs those of the others either
        shutil.rmtree(kept.parent, ignore_errors=True)
    return 0


def read_remote_result(task: RemoteTask) -> TaskResult | None:
    """The result of a task whose outputs are whole; None when there is none yet."""
    text = read_text(task.result)
    return None if text is None else TaskResult.model_validate_json(text)


def _task() -> RemoteTask:
    try:
        return RemoteTask.model_validate_json(os.environ.get(TASK, ""))
    except ValidationError as error:
        raise ConfigError(f"the environment variable {TASK}: {explain_validation(error, RemoteTask)}") from error


def _index(environment: os._Environ[str]) -> int:
    """Which host this is: Kubernetes numbers the pods of an indexed Job, the MPI Operator gives them names."""
    if (number := environment.get("JOB_COMPLETION_INDEX", "")).isdecimal():
        return int(number)
    name = environment.get("HOSTNAME", "")
    if environment.get("K_MPI_JOB_ROLE") == "launcher":
        return 0
    if environment.get("K_MPI_JOB_ROLE") == "worker" and (worker := re.search(r"-worker-(\d+)$", name)):
        return int(worker[1]) + 1
    raise ConfigError("this is no pod of a TrainJob or MPIJob: neither JOB_COMPLETION_INDEX nor K_MPI_JOB_ROLE is set")


def _hosts(task: RemoteTask) -> tuple[str, ...]:
    named = os.environ.get(HOSTS)
    return tuple(named.split(",")) if named else task.hosts


def _given(task: RemoteTask, port: Port, folder: Path) -> tuple[GivenArtifact, ...]:
    """Inputs, brought here; several for a port that takes one are put together."""
    artifacts = task.inputs.get(port.name, ())
    if len(artifacts) > 1 and not port.many:
        artifacts = (RemoteArtifact(parts=tuple(uri for one in artifacts for uri in (one.parts or (one.uri,)))),)
    return tuple(_brought(one, port, folder / f"{port.name}-{number}") for number, one in enumerate(artifacts))


def _brought(artifact: RemoteArtifact, port: Port, place: Path) -> GivenArtifact:
    if not artifact.parts:
        path = _downloaded(artifact.uri, port, place)
        return GivenArtifact(path=path, uri=artifact.uri, metadata=artifact.metadata)
    parts = [_downloaded(uri, port, place / f"part-{number}") for number, uri in enumerate(artifact.parts)]
    add_tree(place / "whole", parts, symbolic_link)
    return GivenArtifact(path=place / "whole", parts=artifact.parts, metadata=artifact.metadata)


def _downloaded(uri: str, port: Port, place: Path) -> Path:
    suffix = port.artifact.suffix
    path = place.with_name(f"{place.name}{suffix}")
    started = time.monotonic()
    download(uri, path, single=bool(suffix))
    print(f"{port.name} is here after {time.monotonic() - started:.1f} s: {uri}", flush=True)
    return path


def _publish(component: AnyComponent, task: RemoteTask, folder: Path, result: TaskResult) -> None:
    for name, made in result.outputs.items():
        if name in task.outputs:
            upload(folder / made.path, task.outputs[name])
    write_text(result.model_dump_json(), task.result)
    print(f"the outputs of {component.spec.name} are whole", flush=True)


def _tell(kind: str, message: str) -> None:
    """Say why this host failed, within the 4096 bytes that Kubernetes keeps, where the step looks for it."""
    text = message
    while True:
        told = HostFailure.model_validate({"kind": kind, "message": text, "at": time.time()}).model_dump_json()
        if len(told.encode()) <= 4096:
            break
        text = text[: len(text) * 3 // 4]
    place = Path(os.environ.get(TERMINATION_LOG, "/dev/termination-log"))
    with contextlib.suppress(OSError):
        if place.exists():
            place.write_text(told)
