"""What a suite is made of: cases, the contenders in them, and what is asked for.

A suite is a module in `benchmarks/suites` with `TITLE`, `ABOUT` (Markdown is not rendered) and

    def cases(setting: Setting) -> Iterator[Case | CaseResult]: ...

Data is made (below `setting.scratch`) before a case is given; servers stay up while it is measured, in a `with` block
around the `yield`. What needs no data goes into the case's `checks`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import Field, JsonValue

from benchmarks.environments import PeerMissingError
from benchmarks.results import CaseResult, Check, Measurement, Metric
from millrace.errors import TaskFailedError
from millrace.specs import Frozen

__all__ = ["OURS", "SUITES", "Case", "Contender", "Limit", "Measured", "Ratio", "Setting", "Suite"]

SUITES = ("training", "listing", "manifest", "shard", "preprocess", "s3", "input", "tfrecord")
"""In the order in which they run; each is a module in benchmarks/suites."""
OURS = "millrace"
"""Name of our contender, where there is but one."""

_DATA = "MILLRACE_DATA"
_NEAR = Path(__file__).parents[2] / "shared" / "data"


class Contender(Frozen):
    """A process that does the work of a case: a script that calls `benchmarks.measure.main`."""

    name: str = OURS
    about: str
    """What runs, for the page: the call, the settings that matter."""
    script: str
    """Below `benchmarks/`: `ours/NAME.py`, `peers/NAME.py`."""
    environment: str | None = None
    """Name of the peer's requirements, `benchmarks/peers/NAME.txt`; None: ours."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """What the script's `prepare` is given."""
    cores: int = Field(default=1, ge=1)
    """Processor cores that the process may use."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Added to the environment of the process."""
    packages: tuple[str, ...] = ()
    """Whose versions are told."""
    limit_seconds: float = 3600.0
    """After which the process is killed."""

    @property
    def ours(self) -> bool:
        """Whether it runs in our environment, by a script of ours."""
        return self.script.startswith("ours/")


class Ratio(Frozen):
    """How many times better one contender is than another: by the rate, or by less time or memory."""

    beside: str
    name: str = OURS
    metric: Metric = "rate"
    target: float | None = None
    """At least; None: only told."""


class Limit(Frozen):
    """Bounds of a figure of a contender: a metric, or one of the other figures that its script tells."""

    figure: str
    name: str = OURS
    least: float | None = None
    most: float | None = None


Measured = Mapping[str, Sequence[Measurement]]
"""Rounds by contender; empty where it failed or is missing."""


@dataclass(frozen=True)
class Case:
    """Contenders that are measured in turn, round by round."""

    name: str
    title: str
    unit: str
    contenders: tuple[Contender, ...]
    ratios: tuple[Ratio, ...] = ()
    limits: tuple[Limit, ...] = ()
    about: str = ""
    rounds: int | None = None
    """None: as asked for on the command line."""
    same_work: bool = True
    """Whether all have to report the same amount of work."""
    checks: Callable[[Measured], Iterator[Check]] | None = None
    """Called after the last round, while the data is still there."""


@dataclass(frozen=True)
class Setting:
    """What a suite is run with."""

    scratch: Path
    """For data; removed afterwards."""
    quick: bool = False
    """Whether to make everything small: to see that all works."""
    rounds: int = 5
    seconds: float = 3.0
    """Length of a measurement, where a contender can go on as long as one likes."""
    only: tuple[str, ...] = ()
    """Names of cases; empty: all."""
    profile: bool = False
    photographs_folder: Path | None = None
    try_contender: Callable[[Contender], Measurement] = field(kw_only=True)
    """Runs a contender once; raises TaskFailedError or PeerMissingError."""
    tell: Callable[[str], None] = field(kw_only=True, default=print)

    def wants(self, case: str) -> bool:
        """Whether a case is to be measured: ask before data is made for it."""
        return not self.only or case in self.only

    def size(self, full: int, quick: int) -> int:
        """How much data to make."""
        return quick if self.quick else full

    def check(self, name: str, contender: Contender, work: float) -> Check:
        """Whether a contender, run once, does so much work; not tried when its environment can't be made."""
        try:
            done = self.try_contender(contender).work
        except PeerMissingError as error:
            return Check(name=name, passed=None, detail=str(error))
        except TaskFailedError as error:
            return Check(name=name, passed=False, detail=str(error))
        return Check(name=name, passed=done == work, detail=f"{done:,.0f} of {work:,.0f}")

    def photographs(self, count: int) -> Path:
        """A folder with a folder for each class, of so many JPEG photographs.

        Real ones from `--photographs` or the data set clothing-mini in the folder that MILLRACE_DATA names, each
        taken as often as it takes; where there are none, made ones of 400x533 that compress alike.
        """
        from benchmarks.photographs import copied, generated

        folder = self.scratch / f"photographs-{count}"
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            source = self.photographs_folder or _shared("clothing-mini")
            if source is None:
                generated(partial, count)
            else:
                copied(source, partial, count)
            partial.rename(folder)
        return folder


class Suite(Protocol):
    """A module in `benchmarks/suites`."""

    TITLE: str
    ABOUT: str

    def cases(self, setting: Setting) -> Iterator[Case | CaseResult]:
        """Make data and give a case, until there are no more."""
        ...


def _shared(name: str) -> Path | None:
    folder = Path(os.environ.get(_DATA, _NEAR)) / name
    return folder if folder.is_dir() else None
