"""Measure Millrace beside what people use today: `python -m benchmarks --help`. What is compared: README.md."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from rich.console import Console

from benchmarks.contest import measure_case, run_contender
from benchmarks.environments import PeerMissingError
from benchmarks.machine import machine
from benchmarks.page import write_page
from benchmarks.plan import SUITES, Case, Setting, Suite
from benchmarks.results import CaseResult, SuiteResult, read_results
from benchmarks.tables import show
from millrace.errors import MillraceError

__all__ = ["main"]

_RESULTS = Path(__file__).parent / "results"
_QUICK_ROUNDS = 2
_QUICK_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write what was found; 1 when a target is missed or our own side fails."""
    options = _options().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.list:
        for name in SUITES:
            console.print(f"{name:12}{_suite(name).TITLE}", highlight=False)
        return 0
    missed: list[str] = []
    if not options.page:
        missed = _measured(options, console)
    results = read_results(options.results, SUITES)
    page = write_page(results, options.results / "index.html")
    console.print(f"written to {page}", soft_wrap=True)
    for line in missed:
        console.print(f"missed: {line}", highlight=False)
    return 1 if missed else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=SUITES, default=list(SUITES), metavar="SUITE", help=f"which of {', '.join(SUITES)}"
    )
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE", help="only these cases of the suites")
    parser.add_argument("--rounds", type=int, help="measurements of each contender, in turn with the others (5)")
    parser.add_argument("--seconds", type=float, help="length of a measurement that could go on forever (3)")
    parser.add_argument(
        "--quick", action="store_true", help="small data, two rounds: to see that all works; no target is judged"
    )
    parser.add_argument("--profile", action="store_true", help="tell where our time goes, also where targets are met")
    parser.add_argument(
        "--photographs", type=Path, metavar="FOLDER", help="JPEG files to measure with, a folder a class"
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="FOLDER", help="where results are written")
    parser.add_argument("--page", action="store_true", help="measure nothing: make the page of what results there are")
    parser.add_argument("--list", action="store_true", help="name the suites")
    return parser


def _measured(options: argparse.Namespace, console: Console) -> list[str]:
    """Run the suites, write each one's results as soon as it ends, and give what was missed."""
    options.results.mkdir(parents=True, exist_ok=True)
    missed: list[str] = []
    for name in [one for one in SUITES if one in options.only]:
        result = _run(name, options, console)
        (options.results / f"{name}.json").write_text(result.model_dump_json(indent=1) + "\n")
        show(result, console)
        missed += result.missed
    return missed


def _run(name: str, options: argparse.Namespace, console: Console) -> SuiteResult:
    suite = _suite(name)
    begun, clock, load = datetime.now(UTC), time.perf_counter(), os.getloadavg()[0]
    cases: list[CaseResult] = []
    problem = None
    console.rule(suite.TITLE)
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        setting = _setting(options, Path(folder), console)
        try:
            for case in suite.cases(setting):
                cases.append(measure_case(case, setting) if isinstance(case, Case) else case)
        except (MillraceError, PeerMissingError) as error:
            problem = str(error)
    return SuiteResult(
        name=name, title=suite.TITLE, about=suite.ABOUT, command=f"make bench ARGS=\"--only {name}\"",
        quick=options.quick, begun=begun, seconds=time.perf_counter() - clock, machine=machine(),
        load_before=load, load_after=os.getloadavg()[0], cases=tuple(cases), problem=problem,
    )  # fmt: skip


def _setting(options: argparse.Namespace, scratch: Path, console: Console) -> Setting:
    return Setting(
        scratch=scratch,
        quick=options.quick,
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else 5),
        seconds=options.seconds or (_QUICK_SECONDS if options.quick else 3.0),
        only=tuple(options.cases),
        profile=options.profile,
        photographs_folder=options.photographs,
        try_contender=lambda contender: run_contender(contender).measurement,
        tell=lambda line: console.print(line, highlight=False, markup=False),
    )


def _suite(name: str) -> Suite:
    return cast("Suite", importlib.import_module(f"benchmarks.suites.{name}"))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MillraceError as error:
        sys.exit(f"error: {error}")
