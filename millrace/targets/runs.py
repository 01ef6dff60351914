"""How runs are started on a target, once or again and again. What a target does not know is refused, not dropped."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from millrace.specs import Frozen

__all__ = ["Schedule", "Submit"]


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
