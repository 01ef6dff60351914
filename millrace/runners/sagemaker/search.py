"""Which hyperparameters a tuning job tries next, and which of its jobs it stops early."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean, median
from typing import Any

from millrace.errors import TaskFailedError

__all__ = ["Range", "Search", "falls_behind", "open_search", "read_ranges"]


@dataclass(frozen=True)
class Range:
    """Values of one hyperparameter."""

    name: str
    values: tuple[str, ...] = ()
    """Of a categorical one."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    scaling: str = "Auto"

    def at(self, place: float) -> str:
        """The value at a place between 0 and 1."""
        if self.scaling == "Logarithmic":
            value = math.exp(_between(math.log(self.low), math.log(self.high), place))
        elif self.scaling == "ReverseLogarithmic":
            value = 1 - math.exp(_between(math.log(1 - self.low), math.log(1 - self.high), place))
        else:
            value = _between(self.low, self.high, place)
        if self.whole:
            return str(int(min(max(round(value), self.low), self.high)))
        return repr(min(max(value, self.low), self.high))

    def place(self, value: str) -> float | None:
        """Where between 0 and 1 a value is; None when it is outside."""
        try:
            number = float(value)
        except ValueError:
            return None
        if not self.low <= number <= self.high:
            return None
        if self.low == self.high:
            return 0.0
        if self.scaling == "Logarithmic":
            return math.log(number / self.low) / math.log(self.high / self.low)
        if self.scaling == "ReverseLogarithmic":
            return math.log((1 - number) / (1 - self.low)) / math.log((1 - self.high) / (1 - self.low))
        return (number - self.low) / (self.high - self.low)


def _between(low: float, high: float, place: float) -> float:
    return low + (high - low) * place


def read_ranges(given: Mapping[str, Any]) -> list[Range]:
    """The ranges of a tuning job.

    Raises:
        TaskFailedError: When one is none, or there is none.
    """
    found = [
        Range(item["Name"], values=tuple(str(value) for value in item["Values"]))
        for item in given.get("CategoricalParameterRanges") or []
    ]
    for key, whole in (("IntegerParameterRanges", True), ("ContinuousParameterRanges", False)):
        for item in given.get(key) or []:
            name, scaling = item["Name"], item.get("ScalingType", "Auto")
            try:
                low, high = float(item["MinValue"]), float(item["MaxValue"])
            except ValueError:
                raise TaskFailedError(f"{key}: {name}: MinValue and MaxValue are numbers") from None
            if low > high:
                raise TaskFailedError(f"{key}: {name}: MinValue {low:g} is above MaxValue {high:g}")
            if scaling == "Logarithmic" and low <= 0:
                raise TaskFailedError(f"{key}: {name}: Logarithmic needs a MinValue above 0, given {low:g}")
            if scaling == "ReverseLogarithmic" and (whole or low < 0 or high >= 1):
                raise TaskFailedError(f"{key}: {name}: ReverseLogarithmic needs continuous values from 0 to below 1")
            found.append(Range(name, low=low, high=high, whole=whole, scaling=scaling))
    if not found:
        raise TaskFailedError("ParameterRanges: there is nothing to search")
    return found


class Search:
    """A random search."""

    def __init__(self, ranges: Sequence[Range], seed: int) -> None:
        self.ranges = ranges
        self._random = random.Random(seed)

    def ask(self, number: int) -> dict[str, str] | None:
        """Values for the job of a number; None when there are no more."""
        return {
            item.name: self._random.choice(item.values) if item.values else item.at(self._random.random())
            for item in self.ranges
        }

    def tell(self, number: int, objective: float | None) -> None:
        """Note how a job ended; None when it failed."""

    def learn(self, values: Mapping[str, str], objective: float) -> None:
        """Learn from a job of an earlier tuning job."""


class _Grid(Search):
    """Every combination of categories, one after the other."""

    def __init__(self, ranges: Sequence[Range], seed: int) -> None:
        super().__init__(ranges, seed)
        if numeric := [item.name for item in ranges if not item.values]:
            raise TaskFailedError(f"Grid searches categorical ranges only, given {', '.join(numeric)}")
        self._points: Iterator[tuple[str, ...]] = itertools.product(*(item.values for item in ranges))

    def ask(self, number: int) -> dict[str, str] | None:
        point = next(self._points, None)
        return None if point is None else dict(zip((item.name for item in self.ranges), point, strict=True))


class _Bayesian(Search):
    """Optuna's TPE over places between 0 and 1."""

    def __init__(self, ranges: Sequence[Range], seed: int, maximize: bool) -> None:
        super().__init__(ranges, seed)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
        self._spaces: dict[str, Any] = {
            item.name: optuna.distributions.CategoricalDistribution(item.values)
            if item.values
            else optuna.distributions.FloatDistribution(0, 1)
            for item in ranges
        }
        self._trials: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, str] | None:
        trial = self._trials[number] = self._study.ask(self._spaces)
        return {
            item.name: str(trial.params[item.name]) if item.values else item.at(trial.params[item.name])
            for item in self.ranges
        }

    def tell(self, number: int, objective: float | None) -> None:
        from optuna.trial import TrialState

        state = TrialState.FAIL if objective is None else TrialState.COMPLETE
        self._study.tell(self._trials[number], objective, state)

    def learn(self, values: Mapping[str, str], objective: float) -> None:
        import optuna

        places: dict[str, Any] = {}
        for item in self.ranges:
            value = values.get(item.name, "")
            place = (value if value in item.values else None) if item.values else item.place(value)
            if place is None:
                return  # outside of these ranges
            places[item.name] = place
        self._study.add_trial(optuna.create_trial(params=places, distributions=self._spaces, value=objective))


def open_search(strategy: str, ranges: Sequence[Range], seed: int, *, maximize: bool) -> Search:
    """What a tuning job's strategy is rehearsed with.

    Raises:
        TaskFailedError: When the ranges don't suit it.
    """
    if strategy == "Grid":
        return _Grid(ranges, seed)
    if strategy == "Bayesian" and find_spec("optuna") is not None:
        return _Bayesian(ranges, seed, maximize)
    return Search(ranges, seed)


def falls_behind(values: Sequence[float], earlier: Sequence[Sequence[float]], *, maximize: bool) -> bool:
    """Whether a job shall be stopped: its last value is worse than the median of what earlier jobs had until then.

    Args:
        values: The objective after each epoch of the job, so far.
        earlier: The same of each job that has completed; those that never got so far are left out.
        maximize: Whether more is better.
    """
    if not values:
        return False
    averages = [fmean(other[: len(values)]) for other in earlier if len(other) >= len(values)]
    if not averages:
        return False
    middle = median(averages)
    return values[-1] < middle if maximize else values[-1] > middle
