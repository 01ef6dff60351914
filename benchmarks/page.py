"""The page that shows all results: self-contained, without scripts; and the same for the documentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from benchmarks.results import CaseResult, RatioResult, SuiteResult
from benchmarks.words import METRICS, asked, bounds, figure, times, verdict
from millrace.runtime.pages import page_environment
from millrace.runtime.task import write_atomically

__all__ = ["Mark", "Scale", "marks", "render_markdown", "render_page", "scale_of", "write_page"]

_HERE = Path(__file__).parent
_STEPS = (1.0, 2.0, 5.0)
_MOST_TICKS = 7


class Mark(NamedTuple):
    """A row of a plot; places are percent of its width."""

    ratio: RatioResult
    middle: float
    begin: float
    width: float
    target: float | None
    state: str
    """met, missed or told."""


class Scale(NamedTuple):
    """A logarithmic axis."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Percent of the width."""
        return round(100 * math.log(value / self.low) / math.log(self.high / self.low), 2)


def write_page(results: Sequence[SuiteResult], path: Path) -> Path:
    """Write the page of these results, seen whole or not at all."""
    write_atomically(path, render_page(results))
    return path


def render_page(results: Sequence[SuiteResult]) -> str:
    """The page as HTML; it refers to nothing outside, and the same results give the same bytes."""
    css = (_HERE / "page.css").read_text()
    return _environment().get_template("page.html").render(results=results, css=css)


def render_markdown(results: Sequence[SuiteResult]) -> str:
    """The page for mkdocs; without results, how to get them."""
    css = (_HERE / "page.css").read_text()
    return _environment().get_template("page.md").render(results=results, css=css)


def scale_of(cases: Sequence[CaseResult]) -> Scale:
    """An axis that has room for all ratios of these cases, their targets, and 1."""
    ratios = [ratio for case in cases for ratio in case.ratios]
    values = [1.0, *(value for one in ratios for value in one.rounds), *(one.target for one in ratios if one.target)]
    low, high = min(values) / 1.15, max(values) * 1.15
    low, high = min(low, 0.5), max(high, 2.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in _STEPS]
    shown = [tick for tick in ticks if low <= tick <= high]
    if len(shown) > _MOST_TICKS:
        shown = [tick for tick in shown if math.log10(tick).is_integer()]
    return Scale(low, high, tuple(shown))


def marks(case: CaseResult, scale: Scale) -> list[Mark]:
    """The rows of a case's plot: ratios that have figures."""
    rows = []
    for ratio in case.ratios:
        found = ratio.spread
        if found is None:
            continue
        begin, middle, end = (scale.place(value) for value in (found.least, found.median, found.most))
        target = scale.place(ratio.target) if ratio.target else None
        state = {True: "met", False: "missed", None: "told"}[ratio.met]
        rows.append(Mark(ratio, middle, begin, round(end - begin, 2), target, state))
    return rows


@cache
def _environment() -> Environment:
    environment = page_environment(_HERE)
    environment.filters |= {"figure": figure, "times": times, "asked": asked, "bounds": bounds}
    environment.globals |= {"metrics": METRICS, "scale_of": scale_of, "marks": marks, "verdict": verdict}
    return environment
