"""What commands are asked on a target: start runs, once or again and again, change an endpoint, tell a price.

What a target does not know is refused, not dropped.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from millrace.specs import Frozen

__all__ = ["Cost", "EndpointChange", "Schedule", "Submit"]


class Submit(Frozen):
    """How a run is started."""

    experiment: str = "Default"
    """Group of runs in Kubeflow's UI; made when it is not there."""
    name: str | None = None
    """Name of the run; null takes its id."""
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$")
    """An id of your own: a second submit with the same id finds the first run instead of starting another.
    Null makes a new one: the pipeline's name, the time and a random end."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of runtime parameters, by their dotted names."""
    cache: bool | None = None
    """Whether results of equal tasks are reused; null leaves it to the document."""
    wait: bool = False
    """Follow the run to its end; the exit code tells how it went."""
    only: tuple[str, ...] = ()
    """SageMaker: run these tasks alone (selective execution); results of the others come from `reference`."""
    reference: str | None = None
    """SageMaker: ARN of the execution that `only` takes results from; null takes the pipeline's latest."""


class Schedule(Frozen):
    """When runs are started, again and again."""

    name: str | None = None
    """Name of the schedule; null takes the pipeline's name."""
    cron: str | None = None
    """Kubeflow: six fields, seconds first: `0 0 3 * * *` is every night at three; five fields get second 0. SageMaker:
    five fields, `0 3 * * *`, or EventBridge's six with the year last."""
    interval_seconds: int | None = Field(default=None, ge=60)
    """Instead of cron: time between the starts of two runs."""
    start: datetime | None = None
    """No run before; without a time zone it is UTC."""
    end: datetime | None = None
    """No run after; without a time zone it is UTC."""
    catch_up: bool = False
    """Kubeflow: start the runs that were missed while the schedule was off."""
    concurrency: int = Field(default=1, ge=1, le=10)
    """Kubeflow: runs of this schedule at one time."""
    state: Literal["enabled", "disabled", "deleted"] | None = None
    """Null leaves a schedule that exists as it is; a new one is enabled."""


class EndpointChange(Frozen):
    """What `millrace endpoint` does to the endpoint of a pipeline's deploy task."""

    action: Literal["status", "deploy", "rollback", "weights", "delete"] = "status"
    """deploy: the newest approved version of the registry, or `package`; rollback: the configuration before."""
    task: str | None = None
    """The task that deploys, where the pipeline has several."""
    package: str | None = None
    """ARN of a model package; null takes the newest approved one of the group."""
    weights: dict[str, float] = Field(default_factory=dict)
    """For weights: of each variant."""
    wait: bool = True
    """Follow the change to its end."""


class Cost(Frozen):
    """How long the steps of a run take, for `millrace cost`."""

    minutes: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Of single tasks; for tuning, of one of its jobs. What you measured in an earlier run."""
    default_minutes: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (5, 60)
    """Of all other tasks: at the least and at the most."""
    machines: Path | None = None
    """A table of machine types and prices of your own, in the form of Millrace's machines.yaml."""

    @model_validator(mode="after")
    def _ordered(self) -> Cost:
        least, most = self.default_minutes
        if least > most:
            raise ValueError(f"default_minutes: the least, {least:g}, is more than the most, {most:g}")
        return self
