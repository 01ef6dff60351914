"""What a suite has found: the form of `benchmarks/results/NAME.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, JsonValue, ValidationError

from millrace.errors import DataError, explain_validation
from millrace.specs import Frozen

__all__ = [
    "VERSION",
    "CaseResult",
    "Check",
    "ContenderResult",
    "LimitResult",
    "Measurement",
    "Metric",
    "RatioResult",
    "Spread",
    "SuiteResult",
    "read_result",
    "read_results",
    "spread",
]

VERSION: Final = 1
"""Of the form; raised when an older page could not show it any more."""

Metric = Literal["rate", "seconds", "peak_bytes"]
"""rate: work a second."""


class Spread(Frozen):
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float


class Measurement(Frozen):
    """One process, once."""

    seconds: float = Field(gt=0)
    work: float = Field(ge=0)
    """How much was done, in the unit of the case."""
    peak_bytes: int | None = Field(default=None, ge=0)
    """Most memory of the process and its children; None: not measured."""
    more: dict[str, float] = Field(default_factory=dict)
    """Other figures, by names that say their unit."""

    def figure(self, name: str) -> float | None:
        """A metric or one of the other figures; None when it was not measured."""
        if name == "rate":
            return self.work / self.seconds
        if name in ("seconds", "work"):
            return float(getattr(self, name))
        return self.more.get(name) if name != "peak_bytes" else self.peak_bytes


class ContenderResult(Frozen):
    """One way to do the work, and how it went."""

    name: str
    about: str
    """What runs: the call, the settings that matter."""
    ours: bool
    cores: int = Field(ge=1)
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the packages that do the work."""
    rounds: tuple[Measurement, ...] = ()
    problem: str | None = None
    """Why there are no figures: it could not be installed, or it failed."""

    def spread(self, name: str) -> Spread | None:
        """Of a figure; None when it was not measured."""
        return spread(figure for one in self.rounds if (figure := one.figure(name)) is not None)


class RatioResult(Frozen):
    """How many times better one contender is than another, in each round: more is always better."""

    name: str
    """The contender that is looked at."""
    beside: str
    metric: Metric
    target: float | None
    """At least so much, for the median; None: only told."""
    rounds: tuple[float, ...]
    """Empty when one of the two has no figures."""
    met: bool | None
    """None: there is no target, or it is not judged (a quick run, a peer that is missing)."""

    @property
    def spread(self) -> Spread | None:
        """Over the rounds; None without any."""
        return spread(self.rounds)


class LimitResult(Frozen):
    """A figure of a contender that must not leave its bounds in any round."""

    name: str
    figure: str
    least: float | None
    most: float | None
    rounds: tuple[float, ...]
    met: bool | None


class Check(Frozen):
    """Something that is so, or is not: that a peer reads what we wrote, for one."""

    name: str
    passed: bool | None
    """None: could not be tried."""
    detail: str = ""


class CaseResult(Frozen):
    """Contenders that did the same work."""

    name: str
    title: str
    unit: str
    """Of the work, in the plural: objects, pictures, records."""
    about: str = ""
    contenders: tuple[ContenderResult, ...]
    ratios: tuple[RatioResult, ...] = ()
    limits: tuple[LimitResult, ...] = ()
    checks: tuple[Check, ...] = ()
    profile: str = ""
    """Where the time of ours went: told when a target was missed, or when it was asked for."""


class SuiteResult(Frozen):
    """One run of a suite."""

    version: Literal[1] = VERSION
    name: str
    title: str
    about: str
    command: str
    """What repeats it."""
    quick: bool
    """Whether sizes were so small that the figures mean nothing."""
    begun: datetime
    seconds: float
    machine: dict[str, JsonValue]
    load_before: float
    """Load average of the last minute."""
    load_after: float
    cases: tuple[CaseResult, ...]
    problem: str | None = None
    """What stopped the suite before its end."""

    @property
    def missed(self) -> tuple[str, ...]:
        """Targets that were judged and not met, failures of our own and checks that failed, for people."""
        told = [f"{self.name}: {self.problem}"] if self.problem else []
        for case in self.cases:
            begin = f"{self.name}, {case.name}:"
            told += [f"{begin} {one.name} failed" for one in case.contenders if one.ours and one.problem]
            told += [f"{begin} {one.name} beside {one.beside}, {one.metric}" for one in case.ratios if one.met is False]
            told += [f"{begin} {one.name}, {one.figure}" for one in case.limits if one.met is False]
            told += [f"{begin} {one.name}" for one in case.checks if one.passed is False]
        return tuple(told)


def spread(values: Iterable[float]) -> Spread | None:
    """Median, least and most; None for no values."""
    found = list(values)
    return Spread(median=statistics.median(found), least=min(found), most=max(found)) if found else None


def read_result(path: Path) -> SuiteResult:
    """One suite's results.

    Raises:
        DataError: When it is no such file, or of a form that this version does not know.
    """
    try:
        given = json.loads(path.read_text())
        version = given.get("version") if isinstance(given, dict) else None
        if version != VERSION:
            raise DataError(f"{path} has results of form {version!r}, this page shows form {VERSION}: measure again")
        return SuiteResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path}: {explain_validation(error)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error


def read_results(folder: Path, order: Sequence[str]) -> tuple[SuiteResult, ...]:
    """All results in a folder, in the order of the suites; others behind them by name.

    Raises:
        DataError: As `read_result`.
    """
    found = [read_result(path) for path in sorted(folder.glob("*.json"))]
    places = {name: place for place, name in enumerate(order)}
    return tuple(sorted(found, key=lambda one: (places.get(one.name, len(places)), one.name)))
