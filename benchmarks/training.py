"""Measure training: `python -m benchmarks.training --help`. What is compared, and why so, stands in README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cases import GROUPS, SHAPES, Group, Net, Ratio, Team, batch_of
from benchmarks.machine import cores, machine
from benchmarks.processes import Processes, started
from benchmarks.records import write_noise
from millrace.errors import ConfigError, MillraceError

__all__ = ["main"]

_RESULTS = Path(__file__).parent / "results" / "training.json"
_TRIAL_STEPS = 8
_LIMIT_SECONDS = 3600.0


class _Turn(NamedTuple):
    """One measurement of a team."""

    pictures: float
    """A second, of all its processes together."""
    processor: float
    """Seconds of processor time for a thousand pictures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write what was found; 1 when a target is missed."""
    options = _options().parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 2, 0.2
    console = Console(width=None if sys.stdout.isatty() else 120)
    report: dict[str, Any] = {
        "machine": machine(),
        "load_before": os.getloadavg(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "teams": [],
        "ratios": [],
    }
    console.print("  ".join(f"{name} {value}" for name, value in report["machine"].items()), soft_wrap=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.groups:
            _add(report, name, _measured(name, Path(folder) / name, options, console))
            report["load_after"] = os.getloadavg()
            options.results.write_text(json.dumps(report, indent=1) + "\n")
    _show(report, console)
    console.print(f"written to {options.results}", soft_wrap=True)
    return 0 if all(ratio["met"] is not False for ratio in report["ratios"]) else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each team, in turn with the others")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement")
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that all works")
    parser.add_argument("--profile", action="store_true", help="show where a step of our trainer spends its time")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="file to write")
    return parser


def _measured(name: str, folder: Path, options: argparse.Namespace, console: Console) -> dict[str, list[_Turn]]:
    """What each team of a group did in each round."""
    group = GROUPS[name]
    _check(group)
    turns: dict[str, list[_Turn]] = {team.name: [] for team in group.teams}
    with contextlib.ExitStack() as stack:
        teams = [stack.enter_context(one) for one in _started(group, folder)]
        steps = [_steps(team, options.seconds) for team in teams]
        for number in range(options.rounds):
            for team, count in zip(teams, steps, strict=True):
                turns[team.team.name].append(_turn(team.team, team.measure(count)))
            load = os.getloadavg()[0]
            console.print(f"{name}: round {number + 1} of {options.rounds}, load {load:.1f}", highlight=False)
        for team, count in zip(teams, steps, strict=True):
            if team.team.name == "trainer" and (options.profile or _missed(group.ratios, turns)):
                console.print(team.measure(count, "profile")[0]["profile"], highlight=False, markup=False)
    return turns


def _check(group: Group) -> None:
    most = max(team.processes for team in group.teams)
    if len(cores()) < most:
        raise ConfigError(f"{most} processor cores are needed, one for each process; there are {len(cores())}")
    if any(team.strategy == "horovod" for team in group.teams) and find_spec("horovod") is None:
        raise ConfigError("Horovod is not installed: make horovod, or leave the groups of several ranks out (--groups)")


def _started(group: Group, folder: Path) -> Iterator[contextlib.AbstractContextManager[Processes]]:
    nets: set[Net] = {team.net for team in group.teams}
    for net in nets:
        write_noise(folder / net, *SHAPES[net])
    for number, team in enumerate(group.teams):
        yield started(team, folder / team.net, folder / f"team-{number}", cores(), _LIMIT_SECONDS)


def _steps(team: Processes, seconds: float) -> int:
    """How many steps take so long."""
    trial: float = max(found["seconds"] / found["steps"] for found in team.measure(_TRIAL_STEPS))
    return max(_TRIAL_STEPS, round(seconds / trial))


def _turn(team: Team, found: list[dict[str, Any]]) -> _Turn:
    pictures = [one["steps"] * batch_of(team) for one in found]
    rate = sum(count / one["seconds"] for count, one in zip(pictures, found, strict=True))
    return _Turn(rate, 1000 * sum(one["processor_seconds"] for one in found) / sum(pictures))


def _ratios(ratio: Ratio, turns: dict[str, list[_Turn]]) -> list[float]:
    """Of each round."""
    pairs = zip(turns[ratio.team], turns[ratio.beside], strict=True)
    return [mine.pictures / other.pictures for mine, other in pairs]


def _missed(ratios: Sequence[Ratio], turns: dict[str, list[_Turn]]) -> bool:
    return any(one.target is not None and statistics.median(_ratios(one, turns)) < one.target for one in ratios)


def _add(report: dict[str, Any], name: str, turns: dict[str, list[_Turn]]) -> None:
    net = GROUPS[name].teams[0].net
    for team, found in turns.items():
        facts = {"group": name, "net": net, "team": team}
        processor = statistics.median(turn.processor for turn in found)
        rates = _spread([turn.pictures for turn in found])
        report["teams"].append({**facts, "pictures_a_second": rates, "processor_ms_a_picture": processor})
    for ratio in GROUPS[name].ratios:
        spread = _spread(_ratios(ratio, turns))
        met = None if ratio.target is None else spread["median"] >= ratio.target
        facts = {"group": name, "net": net, "team": ratio.team, "beside": ratio.beside}
        report["ratios"].append({**facts, "ratio": spread, "target": ratio.target, "met": met})


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "rounds": values}


def _show(report: dict[str, Any], console: Console) -> None:
    rates = Table("net", "team", "pictures/s", "least", "most", "processor ms/picture", box=box.SIMPLE_HEAD)
    for team in report["teams"]:
        spread = team["pictures_a_second"]
        figures = [f"{spread[name]:.0f}" for name in ("median", "least", "most")]
        rates.add_row(team["net"], team["team"], *figures, f"{team['processor_ms_a_picture']:.3f}")
    ratios = Table("net", "ratio", "median", "least", "most", "target", "", box=box.SIMPLE_HEAD)
    for one in report["ratios"]:
        spread = one["ratio"]
        figures = [f"{spread[name]:.3f}" for name in ("median", "least", "most")]
        target = "" if one["target"] is None else f">= {one['target']:.2f}"
        verdict = {None: "", True: "met", False: "missed"}[one["met"]]
        ratios.add_row(one["net"], f"{one['team']} / {one['beside']}", *figures, target, verdict)
    console.print(rates)
    console.print(ratios)
    before, after = (report[name][0] for name in ("load_before", "load_after"))
    console.print(f"load average {before:.1f} before, {after:.1f} after, on {report['machine']['cores']} cores")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MillraceError as error:
        sys.exit(str(error))
