"""The `tune` component: what it takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field, JsonValue, field_validator

from millrace.components.tune.space import Range, check_space
from millrace.errors import CompositionError, ConfigError
from millrace.specs import (
    Component,
    Inputs,
    Metric,
    Metrics,
    Outputs,
    Parameters,
    Records,
    Resources,
    Study,
    component,
)

__all__ = [
    "Hyperband",
    "MedianRule",
    "NoPruning",
    "Objective",
    "RandomSampler",
    "TpeSampler",
    "TuneInputs",
    "TuneOutputs",
    "TuneParameters",
    "tune",
]

ParametersT = TypeVar("ParametersT", bound=Parameters)
OutputsT = TypeVar("OutputsT", bound=Outputs)


class Objective(Parameters):
    """What makes one trial better than another."""

    metric: str = Field(default="accuracy")
    """A metric that the searched component reports."""
    direction: Literal["maximize", "minimize"] = Field(default="maximize")
    """Whether more or less of it is better."""
    intermediate: str = Field(default="validation_accuracy")
    """The same number in the component's figures for each epoch, for stopping bad trials early."""


class TpeSampler(Parameters):
    """Tree-structured Parzen estimator: learns from earlier trials."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: int = Field(default=5, ge=1)
    """Trials at random before it begins."""
    multivariate: bool = Field(default=True)
    """Look at parameters together instead of one by one."""


class RandomSampler(Parameters):
    """Every trial at random."""

    kind: Literal["random"] = "random"


class MedianRule(Parameters):
    """End trials that are worse than the median of the earlier ones at the same epoch."""

    kind: Literal["median"] = "median"
    startup_trials: int = Field(default=3, ge=0)
    """Whole trials before any is ended."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Epochs in which no trial is ended."""


class Hyperband(Parameters):
    """Successive halving over several brackets."""

    kind: Literal["hyperband"] = "hyperband"
    smallest: int = Field(default=1, ge=1)
    """Epochs that each trial gets at least."""
    largest: int | None = Field(default=None, ge=2)
    """Epochs of a whole trial; None takes the longest of the first trials."""
    reduction: int = Field(default=3, ge=2)
    """One trial in that many goes on at each rung."""


class NoPruning(Parameters):
    """Run every trial to its end."""

    kind: Literal["none"] = "none"


class TuneParameters(Parameters):
    """Search for the best parameters of a component, by running it."""

    component: str = Field(default="millrace.components.train.spec:train", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`module:attribute` of the component that is searched; it must take `records`."""
    trial: dict[str, JsonValue] = Field(default_factory=dict)
    """Parameters of every trial; those of the space are put over them."""
    space: dict[str, Range] = Field(default_factory=dict)
    """What to search, by parameter name, dotted or nested, by kind: float, int or categorical. null: nothing."""
    objective: Objective = Field(default=Objective())
    """What makes a trial good."""
    sampler: Annotated[TpeSampler | RandomSampler, Field(discriminator="kind")] = Field(default=TpeSampler())
    """How values are chosen, by kind."""
    pruner: Annotated[MedianRule | Hyperband | NoPruning, Field(discriminator="kind")] = Field(default=MedianRule())
    """Which trials are ended early, by kind."""
    trials: int = Field(default=20, ge=1, le=100_000)
    """Trials to run; those of warm starts do not count."""
    timeout_minutes: float | None = Field(default=None, gt=0)
    """When this time is over and a trial has finished, the search ends; an attempt counts its own time."""
    parallel: int = Field(default=1, ge=1, le=256)
    """Trials side by side; they share the task's cores."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the sampler."""

    @field_validator("space", mode="before")
    @classmethod
    def _by_dotted_name(cls, space: object) -> object:
        """`{model: {dropout: RANGE}}`, which overrides can reach into, is `{model.dropout: RANGE}`."""
        return dict(_dotted(space or {}, "")) if isinstance(space, Mapping | None) else space

    def of(self, searched: Component[ParametersT, ..., OutputsT], parameters: ParametersT) -> TuneParameters:
        """These parameters for searching `searched`, checked against what it takes.

        Args:
            searched: The component that is searched.
            parameters: Its parameters, of which the space varies some.

        Raises:
            CompositionError: When the space names an unknown parameter or a value out of range.
        """
        base = {**parameters.model_dump(mode="json"), **self.trial}
        try:
            complete = check_space(searched.parameters, base, self.space)
        except ConfigError as error:
            raise CompositionError(f"tune: {error}", task="tune") from error
        return self.model_copy(update={"component": searched.spec.entry, "trial": complete})


class TuneInputs(Inputs):
    """What the search reads."""

    records: Records
    """Given to every trial."""
    warm_start: tuple[Study, ...] = ()
    """Earlier searches to learn from; their best trials are run again first."""


class TuneOutputs(Outputs):
    """What the search writes."""

    study: Study
    """`best.json`, `trials.json` and `study.db`."""
    metrics: Metrics
    """The best value and the course of the search."""
    objective: Metric
    """Best value of the objective."""
    trials: Metric
    """Trials run."""


def _dotted(space: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, values in space.items():
        if isinstance(values, Mapping) and "kind" not in values:
            yield from _dotted(values, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values


tune = component(
    name="tune",
    version="1",
    description="Search for the best parameters with Optuna, each trial a task of its own.",
    parameters=TuneParameters,
    inputs=TuneInputs,
    outputs=TuneOutputs,
    main="millrace.components.tune.main:main",
    image="train",
    delegates=("tuning",),
    refuses="millrace.components.tune.refusals:refuse",
    resources=Resources(cpus=2, memory_gib=4),
    uncached_when=("trial.model.weights", "trial.fine_tuning.model", "trial.teacher.model"),
)
