"""What a suite has found, as tables in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.results import CaseResult, SuiteResult
from benchmarks.words import METRICS, asked, bounds, figure, verdict

__all__ = ["show"]


def show(result: SuiteResult, console: Console) -> None:
    """Print absolute figures, ratios, limits and checks of each case."""
    for case in result.cases:
        console.print(f"\n[bold]{case.name}[/bold]: {case.title}", highlight=False)
        console.print(_figures(case))
        if case.ratios or case.limits:
            console.print(_targets(case))
        for check in case.checks:
            state = {True: "so it is", False: "NOT SO", None: "not tried"}[check.passed]
            console.print(f"  {check.name}: {state}; {check.detail}", highlight=False, markup=False)
        if case.profile:
            console.print(case.profile, highlight=False, markup=False)
    if result.problem:
        console.print(f"stopped: {result.problem}", highlight=False, markup=False)
    told = f"load average {result.load_before:.1f} before, {result.load_after:.1f} after"
    console.print(f"{told}, on {result.machine['cores']} cores; {result.seconds:.0f} s", highlight=False)


def _figures(case: CaseResult) -> Table:
    table = Table(
        "contender", f"{case.unit}/s", "least", "most", "seconds", "peak memory", "cores", box=box.SIMPLE_HEAD
    )
    for one in case.contenders:
        rate, seconds, peak = (one.spread(name) for name in ("rate", "seconds", "peak_bytes"))
        if rate is None or seconds is None:
            table.add_row(one.name, (one.problem or "").strip().splitlines()[-1][:60])
            continue
        memory = figure(peak.median, "peak_bytes") if peak else ""
        rates = [figure(getattr(rate, name)) for name in ("median", "least", "most")]
        table.add_row(one.name, *rates, figure(seconds.median), memory, f"{one.cores}")
    return table


def _targets(case: CaseResult) -> Table:
    table = Table("", "of", "median", "least", "most", "asked for", "", box=box.SIMPLE_HEAD)
    for ratio in case.ratios:
        found = ratio.spread
        figures = [f"{getattr(found, name):.3f}" if found else "-" for name in ("median", "least", "most")]
        names = f"{ratio.name} / {ratio.beside}"
        table.add_row(names, METRICS[ratio.metric], *figures, asked(ratio), verdict(ratio.met, ratio.target))
    for limit in case.limits:
        values = sorted(limit.rounds)
        shown = [figure(values[place], limit.figure) if values else "-" for place in (len(values) // 2, 0, -1)]
        table.add_row(limit.name, limit.figure, *shown, bounds(limit), verdict(limit.met, bounds(limit) or None))
    return table
