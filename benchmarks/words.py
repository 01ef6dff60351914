"""Figures and verdicts in words, alike in the terminal and on the page."""

from __future__ import annotations

from benchmarks.results import LimitResult, RatioResult
from millrace.runtime.pages import size

__all__ = ["METRICS", "asked", "bounds", "figure", "times", "verdict"]

METRICS = {"rate": "speed", "seconds": "time", "peak_bytes": "memory"}
"""What a ratio is of."""


def figure(value: float, name: str = "") -> str:
    """A figure for people: bytes when its name says so, else with three digits that count."""
    if name.endswith("bytes"):
        return size(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def times(value: float) -> str:
    """A ratio for people: 0.97, 2.31, 12.4, 130."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def verdict(met: bool | None, target: object) -> str:
    """Of a target; nothing where there is none."""
    if target is None:
        return ""
    return {True: "met", False: "missed", None: "not judged"}[met]


def asked(ratio: RatioResult) -> str:
    """The target of a ratio."""
    return "" if ratio.target is None else f"at least {ratio.target:g}"


def bounds(limit: LimitResult) -> str:
    """What a figure is asked to keep to."""
    told = [] if limit.least is None else [f"at least {figure(limit.least, limit.figure)}"]
    return " and ".join([*told, *([] if limit.most is None else [f"at most {figure(limit.most, limit.figure)}"])])
