"""A trial is a task: its directory, its process, what it says on the way and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from millrace.components.tune.space import check_space
from millrace.components.tune.spec import TuneParameters
from millrace.errors import ConfigError, did_you_mean
from millrace.registry import load_component
from millrace.runtime.task import Failure, GivenArtifact, TaskRequest, launch, read_failure, read_result

__all__ = ["Running", "base_parameters", "figures", "finish", "outcome", "start", "terminate"]

_GRACE_SECONDS = 10.0
_RESTARTS = 2


@dataclass
class Running:
    """A trial on its way."""

    number: int
    directory: Path
    process: subprocess.Popen[bytes]
    restarts: int = 0

    def restart(self) -> bool:
        """Let a trial that vanished go on from its checkpoint; whether it may do so once more.

        Otherwise a kill that has nothing to do with the parameters would change what is found.
        """
        vanished = self.process.returncode < 0 and read_failure(self.directory) is None
        if not vanished or self.restarts == _RESTARTS or read_result(self.directory) is not None:
            return False
        self.restarts += 1
        terminate([self])
        _close_stdin(self)
        self.process = launch(self.directory)
        return True


def base_parameters(parameters: TuneParameters) -> dict[str, JsonValue]:
    """The parameters that all trials share, complete with defaults.

    Raises:
        ConfigError: When the component does not report the objective, or can't take a value of the space.
    """
    searched = load_component(parameters.component)
    metrics = [metric.name for metric in searched.spec.metrics]
    if parameters.objective.metric not in metrics:
        raise ConfigError(
            f"objective.metric={parameters.objective.metric} is not reported by {searched.spec.name!r}: "
            f"{did_you_mean(parameters.objective.metric, metrics)}"
        )
    if not parameters.space:
        raise ConfigError("space is empty: name at least one parameter to search")
    return check_space(searched.parameters, parameters.trial, parameters.space)


def start(
    number: int, directory: Path, component: str, parameters: dict[str, JsonValue], records: Path, cores: int
) -> Running:
    """Start a trial, or let one that was killed go on from its checkpoint.

    The process ends itself when this one is gone: see `launch`.
    """
    TaskRequest(
        name=f"trial_{number}",
        component=component,
        parameters=parameters,
        inputs={"records": (GivenArtifact(path=records),)},
        cores=cores,
    ).write(directory)
    return Running(number, directory, launch(directory))


def figures(running: Running, name: str) -> dict[int, float]:
    """The number called `name` for each epoch so far."""
    try:
        lines = (running.directory / "checkpoints" / "history.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    rows = [json.loads(line) for line in lines]
    return {int(row["epoch"]): float(row[name]) for row in rows if name in row}


def outcome(running: Running) -> dict[str, float] | Failure:
    """The metrics of a trial whose process has ended, or why it failed."""
    result = read_result(running.directory)
    if result is not None:
        return result.metrics
    code = running.process.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = "; most often the machine ran out of memory" if code == -signal.SIGKILL else ""
    told = f"its process {how}{hint}, see {running.directory / 'log.txt'}"
    return read_failure(running.directory) or Failure(kind="error", message=told)


def terminate(trials: list[Running]) -> None:
    """End processes and all that they started; first politely, together."""
    for sent, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        for running in trials:
            if running.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, sent)
        for running in trials:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(patience)


def finish(running: Running) -> None:
    """Free what an ended trial holds; its request, result and log stay."""
    _close_stdin(running)
    for name in ("outputs", "partial", "scratch", "checkpoints"):
        shutil.rmtree(running.directory / name, ignore_errors=True)


def _close_stdin(running: Running) -> None:
    if running.process.stdin is not None:
        running.process.stdin.close()
