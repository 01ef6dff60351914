"""`millrace train`: a training job of SageMaker, also as one of a tuning job's.

Parameters come as hyperparameters, inputs as channels. Checkpoints lie in a folder that the service keeps, so that a
job which was interrupted goes on; what the first host made is what counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from millrace.errors import ConfigError, TaskFailedError, UnsupportedError, UserError
from millrace.registry import load_component
from millrace.runtime.context import Hosts
from millrace.runtime.process import cores_allowed
from millrace.runtime.sagemaker.contract import BASE, Hyperparameters, InputDataConfig, ResourceConfig, read
from millrace.runtime.sagemaker.events import copied_while_it_runs
from millrace.runtime.sagemaker.hyperparameters import parameters_of
from millrace.runtime.sagemaker.inputs import Delivered, artifacts
from millrace.runtime.sagemaker.job import Job, pairs, run_job
from millrace.runtime.sagemaker.outputs import check_writable, store
from millrace.runtime.task import TaskRequest, TaskResult
from millrace.specs import ComponentSpec, Logs, Model

__all__ = ["ARCHIVES", "COMPONENT", "PROCESSES", "TASK", "TEXTS", "model_port", "run"]

COMPONENT = "MILLRACE_COMPONENT"
"""Environment variable: entry of the component."""
TASK = "MILLRACE_TASK"
"""Environment variable: the task's name."""
TEXTS = "MILLRACE_TEXTS"
"""Environment variable: hyperparameters that are text even if they look like JSON, separated by commas."""
PROCESSES = "MILLRACE_PROCESSES"
"""Environment variable: ranks on each host."""
ARCHIVES = "MILLRACE_ARCHIVES"
"""Environment variable: `PORT=SUBFOLDER` of channels that hold an archive, separated by commas."""

_GRACE_SECONDS = 100.0  # SageMaker kills 120 s after it asked to stop
_RESOLVE_SECONDS = 300.0


def run(words: Sequence[str], base: Path = BASE) -> int:
    """Train and return the exit code.

    Args:
        words: None; everything is told by files and variables.
        base: Where the service's folders are.

    Raises:
        MillraceError: When something is wrong before or after the component's own work.
    """
    config = base / "input" / "config"
    if words or not (config / "hyperparameters.json").is_file():
        given = f"given: {' '.join(words)[:80]}" if words else f"there is no {config / 'hyperparameters.json'}"
        raise UserError(
            "millrace train takes no arguments and runs in containers of SageMaker's training jobs "
            f"({given}); to train here: millrace run pipeline=digits"
        )
    return run_job(base, ("output/failure",), lambda job: _run(os.environ, job))


def model_port(spec: ComponentSpec) -> str | None:
    """The output that becomes the job's model: the first that is one."""
    wanted = Model.artifact_type()
    return next((port.name for port in spec.outputs if port.artifact.fits(wanted)), None)


def _run(environment: Mapping[str, str], job: Job) -> int:
    config = job.base / "input" / "config"
    task = environment.get(TASK, "train")
    component = load_component(_required(environment, COMPONENT))
    hosts = read(config / "resourceconfig.json", ResourceConfig).as_hosts(_processes(environment))
    folders = _output_folders(component.spec, job.base) if hosts.index == 0 else {}
    check_writable(folders.values())
    name = _job_name(environment)
    request = TaskRequest(
        name=task,
        component=component.spec.entry,
        parameters=parameters_of(
            read(config / "hyperparameters.json", Hyperparameters).own(), _listed(environment.get(TEXTS, ""))
        ),
        inputs=artifacts(
            task,
            component,
            _delivered(task, job.base),
            pairs(_listed(environment.get(ARCHIVES, "")), ARCHIVES),
            job.directory / "inputs",
        ),
        hosts=hosts,
        cores=cores_allowed(),
        run=name,
    )
    _keep_checkpoints(job, name)
    _wait_for(hosts)
    logs = _port(component.spec, Logs) if hosts.index == 0 else None
    with copied_while_it_runs(job.task, logs, job.base / "output" / "tensorboard"):
        result = job.work(request, _interface(config, hosts), grace_seconds=_GRACE_SECONDS)
    if not isinstance(result, TaskResult):
        return result
    store({folder: job.task / result.outputs[port].path for port, folder in folders.items()})
    return 0


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ConfigError(f"the variable {name} is not set; compile the pipeline with the image's version of Millrace")
    return value


def _processes(environment: Mapping[str, str]) -> int:
    text = environment.get(PROCESSES, "1")
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ConfigError(f"{PROCESSES}: {text!r}, allowed: a whole number, 1 or more")
    return int(text)


def _listed(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _job_name(environment: Mapping[str, str]) -> str:
    name = environment.get("TRAINING_JOB_NAME", "job")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}", name):
        raise ConfigError(f"TRAINING_JOB_NAME: {name!r} is no name of a job")
    return name


def _delivered(task: str, base: Path) -> list[Delivered]:
    """The channels that there are; a job without any has no list of them."""
    file = base / "input" / "config" / "inputdataconfig.json"
    channels = read(file, InputDataConfig).root if file.exists() else {}
    for name, channel in channels.items():
        if channel.training_input_mode == "Pipe":
            raise UnsupportedError(
                f"{task}.{name}: the channel comes as a stream (Pipe), and components read files: use File, or "
                "FastFile for files that are fetched while they are read"
            )
    return [Delivered(name, base / "input" / "data" / name) for name in sorted(channels)]


def _output_folders(spec: ComponentSpec, base: Path) -> dict[str, Path]:
    model = model_port(spec)
    return {
        port.name: base / "model" if port.name == model else base / "output" / "data" / port.name
        for port in spec.outputs
    }


def _port(spec: ComponentSpec, kind: type[Logs]) -> str | None:
    return next((port.name for port in spec.outputs if port.artifact.fits(kind.artifact_type())), None)


def _keep_checkpoints(job: Job, name: str) -> None:
    """Have checkpoints where the service keeps them, if the job has such a folder: by the job's name, as tuning jobs
    share one."""
    mounted = job.base / "checkpoints"
    if not mounted.is_dir():
        return
    kept = mounted / name
    check_writable([kept])
    job.task.mkdir(parents=True)
    (job.task / "checkpoints").symlink_to(kept)


def _wait_for(hosts: Hosts, seconds: float = _RESOLVE_SECONDS) -> None:
    """Wait until the names of all hosts are known here; right after the start of a job they may not be."""
    deadline = time.monotonic() + seconds
    missing = [] if len(hosts.names) == 1 else list(hosts.names)
    while missing := [name for name in missing if not _resolves(name)]:
        if time.monotonic() > deadline:
            raise TaskFailedError(f"these hosts of the job have no address after {seconds:.0f} s: {', '.join(missing)}")
        time.sleep(1)


def _resolves(name: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.getaddrinfo(name, None))
    return False


def _interface(config: Path, hosts: Hosts) -> dict[str, str]:
    """By which network card the hosts reach each other, in the words of Horovod and NCCL."""
    card = read(config / "resourceconfig.json", ResourceConfig).network_interface_name
    if len(hosts.names) == 1 or not card or not Path("/sys/class/net", card).exists():  # not every name is true
        return {}
    return {"HOROVOD_GLOO_IFACE": card, "NCCL_SOCKET_IFNAME": card}
