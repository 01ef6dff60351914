"""Runs the contenders of a case in turn, each in a process of its own, and judges what they have found."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environments import PeerMissingError, python_of
from benchmarks.machine import cores
from benchmarks.plan import Case, Contender, Limit, Measured, Ratio, Setting
from benchmarks.results import (
    CaseResult,
    Check,
    ContenderResult,
    LimitResult,
    Measurement,
    RatioResult,
    spread,
)
from millrace.errors import ConfigError, TaskFailedError

__all__ = ["Told", "judged_ratio", "measure_case", "run_contender"]

_HERE = Path(__file__).parent
_TAIL = 2000
_LOOK_SECONDS = 0.1
_SAME = 1e-6


class Told:
    """What one process has told."""

    def __init__(self, given: dict[str, Any], tree_bytes: int) -> None:
        peak = max(given["peak_bytes"], tree_bytes)
        self.measurement = Measurement(
            seconds=given["seconds"], work=given["work"], peak_bytes=peak, more=given["more"]
        )
        self.versions: dict[str, str] = given["versions"]
        self.profile: str = given["profile"]


def measure_case(case: Case, setting: Setting) -> CaseResult:
    """Run all contenders in each round, each round in another order, and judge.

    A contender that fails once is not tried again.
    """
    problems: dict[str, str] = {}
    found: dict[str, list[Measurement]] = {one.name: [] for one in case.contenders}
    versions: dict[str, dict[str, str]] = {}
    rounds = case.rounds or setting.rounds
    for number in range(rounds):
        for contender in _turned(case.contenders, number):
            if contender.name in problems:
                continue
            try:
                told = run_contender(contender)
            except (PeerMissingError, TaskFailedError) as error:
                problems[contender.name] = str(error)
                found[contender.name].clear()
                setting.tell(f"{case.name}: {contender.name}: {error}")
                continue
            found[contender.name].append(told.measurement)
            versions[contender.name] = told.versions
        setting.tell(f"{case.name}: round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
    results = tuple(
        ContenderResult(
            name=one.name, about=one.about, ours=one.ours, cores=one.cores,
            versions=versions.get(one.name, {}), rounds=tuple(found[one.name]), problem=problems.get(one.name),
        )
        for one in case.contenders
    )  # fmt: skip
    ratios = tuple(judged_ratio(ratio, found, judge=not setting.quick) for ratio in case.ratios)
    limits = tuple(_limit(limit, found, judge=not setting.quick) for limit in case.limits)
    missed = False in [*(one.met for one in ratios), *(one.met for one in limits)]
    return CaseResult(
        name=case.name, title=case.title, unit=case.unit, about=case.about, contenders=results, ratios=ratios,
        limits=limits, checks=tuple(_checks(case, found)),
        profile=_profile(case, problems) if missed or setting.profile else "",
    )  # fmt: skip


def run_contender(contender: Contender, *, profile: bool = False) -> Told:
    """Run a contender's process once.

    Raises:
        PeerMissingError: When its environment can't be made.
        TaskFailedError: When it fails, takes too long or tells nothing.
    """
    python = python_of(contender.environment)
    given = {"arguments": contender.arguments, "packages": contender.packages, "profile": profile}
    command = [str(python), str(_HERE / contender.script), json.dumps(given)]
    environment = {
        **os.environ, "PYTHONPATH": str(_HERE.parent), "TF_CPP_MIN_LOG_LEVEL": "3", **contender.variables,
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        with _on_cores(contender.cores):
            process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment, start_new_session=True)
        peak = _waited(process, contender.limit_seconds)
        output.seek(0)
        errors.seek(0)
        lines = output.read().strip().splitlines()
        if process.returncode or not lines:
            why = errors.read().strip()[-_TAIL:] or "it said nothing"
            raise TaskFailedError(f"{contender.script} ended with {process.returncode}: {why}")
        return Told(json.loads(lines[-1]), peak)


def _turned(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """The order of a round: the next one begins with each."""
    place = number % len(contenders)
    return [*contenders[place:], *contenders[:place]]


@contextlib.contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """What is started within may use so many cores."""
    own = cores()
    if count > len(own):
        raise TaskFailedError(f"{count} processor cores are asked for, there are {len(own)}")
    os.sched_setaffinity(0, own[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _waited(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for the end, and give the most bytes that the process and its children had together, when looked at.

    All of its session ends with it.
    """
    limit = threading.Timer(seconds, process.kill)
    limit.daemon = True
    limit.start()
    most = 0
    try:
        while process.poll() is None:
            most = max(most, _tree_bytes(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
    finally:
        limit.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
    return most


def _tree_bytes(number: int) -> int:
    """Resident memory of a process that has children, and of these; 0 without any: it tells its peak itself."""
    try:
        process = psutil.Process(number)
        children = process.children(recursive=True)
        return sum(_resident(one) for one in (process, *children)) if children else 0
    except psutil.Error:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def judged_ratio(ratio: Ratio, found: Measured, *, judge: bool) -> RatioResult:
    """Round by round; a target is missed when our own figures are missing, and not judged when the peer's are.

    Raises:
        ConfigError: When there is no contender of that name.
    """
    for name in (ratio.name, ratio.beside):
        if name not in found:
            raise ConfigError(f"a ratio names {name!r}, the contenders are {list(found)}")
    mine, others = found[ratio.name], found[ratio.beside]
    pairs = [(one.figure(ratio.metric), other.figure(ratio.metric)) for one, other in zip(mine, others, strict=False)]
    values = tuple((one / other if ratio.metric == "rate" else other / one) for one, other in pairs if one and other)
    met = None
    if judge and ratio.target is not None and (values or not mine):
        middle = spread(values)
        met = middle is not None and middle.median >= ratio.target
    return RatioResult(
        name=ratio.name, beside=ratio.beside, metric=ratio.metric, target=ratio.target, rounds=values, met=met
    )


def _limit(limit: Limit, found: Measured, *, judge: bool) -> LimitResult:
    if limit.name not in found:
        raise ConfigError(f"a limit names {limit.name!r}, the contenders are {list(found)}")
    values = tuple(figure for one in found[limit.name] if (figure := one.figure(limit.figure)) is not None)
    low = float("-inf") if limit.least is None else limit.least
    high = float("inf") if limit.most is None else limit.most
    met = bool(values) and all(low <= value <= high for value in values) if judge else None
    return LimitResult(name=limit.name, figure=limit.figure, least=limit.least, most=limit.most, rounds=values, met=met)


def _checks(case: Case, found: Measured) -> Iterator[Check]:
    if case.same_work and len(case.contenders) > 1:
        work = {name: rounds[0].work for name, rounds in found.items() if rounds}
        same = not work or max(work.values()) - min(work.values()) <= _SAME * max(work.values())
        told = ", ".join(f"{name} {amount:,.0f}" for name, amount in work.items())
        yield Check(name="all have done the same amount of work", passed=same, detail=f"{case.unit}: {told}")
    if case.checks is not None:
        yield from case.checks(found)


def _profile(case: Case, problems: dict[str, str]) -> str:
    """Where the time of our first contender goes, measured once more."""
    ours = [one for one in case.contenders if one.ours and one.name not in problems]
    return run_contender(ours[0], profile=True).profile if ours else ""
