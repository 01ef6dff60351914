"""What a component's `main` is given beside its parameters, inputs and outputs, and what it returns."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, Field, JsonValue

from millrace.specs import Chart, Frozen
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork

__all__ = ["Context", "Hosts", "Progress", "Rank", "Result", "Share", "summary"]


class Share(Frozen):
    """Which share of the shards this worker has: those at `index`, `index + count`, ..."""

    index: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)


class Hosts(Frozen):
    """The machines that share a task, and which of them this is."""

    names: tuple[str, ...] = Field(default=("localhost",), min_length=1)
    """By which they reach each other; the same order everywhere. What is to be kept is made by the first."""
    index: int = Field(default=0, ge=0)
    """Of this one."""
    processes: int = Field(default=1, ge=1)
    """Ranks on each."""


class Rank(Frozen):
    """One of the processes that train a model together, where a host has several or Horovod joins them."""

    index: int = Field(ge=0)
    """Among all; what is to be kept is made by the first."""
    size: int = Field(ge=1)
    """How many there are."""
    local_index: int = Field(ge=0)
    """Among those of its host."""
    local_size: int = Field(ge=1)
    """How many its host has."""
    launched: bool = True
    """Whether the task itself has started it; mpirun starts ranks of which the task's `hosts` know nothing."""

    @property
    def makes_outputs(self) -> bool:
        """Whether it writes its host's outputs: one rank of each host does."""
        return self.local_index == 0


class Progress(Frozen):
    """How far a task is."""

    done: int
    total: int | None
    unit: str
    seconds: float
    """Since the work on these units began, for an estimate of the rest."""


class Result(BaseModel):
    """What a component's `main` returns.

    `metrics` must hold a number for each `Metric` of its outputs and may hold more; `charts` go beside
    them; `metadata` is by output port, in the form of the artifact's `facts`.
    """

    metrics: dict[str, float] = Field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    metadata: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)


@dataclass
class Context:
    """The surroundings of one attempt at a task."""

    scratch: Path
    """An empty folder for temporary files, removed afterwards."""
    checkpoints: Path
    """A folder that later attempts at the same task find as it was left."""
    share: Share = field(default_factory=Share)
    hosts: Hosts = field(default_factory=Hosts)
    """Only for components that delegate training; one host for all others."""
    rank: Rank | None = None
    """Set in a process that is one of several ranks; None in the host's own, which may start them."""
    directory: Path | None = None
    """The task directory, on which ranks are started."""
    cores: int = 1
    """Processor cores this worker may use."""
    run: str = ""
    """The platform's id of the run; the same for every attempt. Empty where there is none."""
    task: str = ""
    """Name of the task in its pipeline."""
    cluster: ClusterWork | None = None
    """Set where the work shall be handed to a service of the cluster."""
    endpoint: EndpointWork | None = None
    """Set where SageMaker has made the endpoint already, which is to be asked and scaled."""
    progress_file: Path | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("millrace"))
    _started: float = field(default_factory=time.monotonic)
    _reported: float = -1.0
    _unit: str = ""
    _said: float = 0.0

    def progress(self, done: int, total: int | None = None, unit: str = "items") -> None:
        """Say how far the work is; cheap enough to call for every item. Another unit begins another work."""
        now = time.monotonic()
        if unit != self._unit:
            self._started = self._said if self._unit else self._started
            self._unit, self._reported = unit, -1.0
        self._said = now
        finished = total is not None and done >= total
        if self.progress_file is None or (now - self._reported < 0.5 and not finished):
            return
        self._reported = now
        report = Progress(done=done, total=total, unit=unit, seconds=now - self._started)
        partial = self.progress_file.with_suffix(".partial")
        partial.write_text(report.model_dump_json())
        partial.replace(self.progress_file)


def summary(metrics: Mapping[str, float]) -> str:
    """Metrics as one line of `name=value`, the form that Katib's and SageMaker's collectors read."""
    return " ".join(f"{name}={value:.6g}" for name, value in metrics.items())
