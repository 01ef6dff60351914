"""Our trainer beside a bare fit, and Horovod ranks beside other ways to use two cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.contest import judged_ratio
from benchmarks.machine import cores
from benchmarks.plan import Ratio, Setting
from benchmarks.results import CaseResult, ContenderResult, Measurement
from benchmarks.training.cases import GROUPS, SHAPES, Group, Net, Team, batch_of
from benchmarks.training.processes import Processes, started
from benchmarks.training.records import write_noise

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Training"
ABOUT = (
    "Each process has one core, and one thread for operations. All teams of a case are started, warmed up and stopped "
    "(SIGSTOP); then, in rounds, each goes on in its turn while the others stand still, so neither the first epoch nor "
    "tracing is measured."
)

_TRIAL_STEPS = 8
_LIMIT_SECONDS = 3600.0
_PACKAGES = ("tensorflow", "keras", "numpy", "horovod")


def cases(setting: Setting) -> Iterator[CaseResult]:
    """A case for each group."""
    for name in filter(setting.wants, GROUPS):
        yield _measured(name, GROUPS[name], setting)


def _measured(name: str, group: Group, setting: Setting) -> CaseResult:
    if problem := _problem(group):
        setting.tell(f"{name}: {problem}")
        turns: dict[str, list[Measurement]] = {team.name: [] for team in group.teams}
        return _result(name, group, turns, problem=problem)
    turns = {team.name: [] for team in group.teams}
    profile = ""
    with contextlib.ExitStack() as stack:
        teams = [stack.enter_context(one) for one in _started(group, setting.scratch / name)]
        steps = [_steps(team, setting.seconds) for team in teams]
        for number in range(setting.rounds):
            for team, count in zip(teams, steps, strict=True):
                turns[team.team.name].append(_turn(team.team, team.measure(count)))
            setting.tell(f"{name}: round {number + 1} of {setting.rounds}")
        result = _result(name, group, turns, judge=not setting.quick)
        if setting.profile or any(ratio.met is False for ratio in result.ratios):
            trainers = [(team, count) for team, count in zip(teams, steps, strict=True) if team.team.name == "trainer"]
            profile = "".join(team.measure(count, "profile")[0]["profile"] for team, count in trainers)
    return result.model_copy(update={"profile": profile})


def _problem(group: Group) -> str | None:
    """Why this machine can't measure a group."""
    most = max(team.processes for team in group.teams)
    if len(cores()) < most:
        return f"{most} processor cores are needed, one for each process; there are {len(cores())}"
    if any(team.strategy == "horovod" for team in group.teams) and find_spec("horovod") is None:
        return "Horovod is not installed: make horovod"
    return None


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


def _turn(team: Team, found: Sequence[dict[str, Any]]) -> Measurement:
    """The pictures of all processes, as if all had taken as long as the slowest."""
    pictures = [one["steps"] * batch_of(team) for one in found]
    rate = sum(count / one["seconds"] for count, one in zip(pictures, found, strict=True))
    seconds = max(one["seconds"] for one in found)
    processor = 1000 * sum(one["processor_seconds"] for one in found) / sum(pictures)
    return Measurement(seconds=seconds, work=rate * seconds, more={"processor_ms_a_picture": processor})


def _result(
    name: str,
    group: Group,
    turns: dict[str, list[Measurement]],
    *,
    judge: bool = False,
    problem: str | None = None,
) -> CaseResult:
    versions = {package: version(package) for package in _PACKAGES if find_spec(package)}
    contenders = tuple(
        ContenderResult(
            name=team.name, about=_about(team), ours=False, cores=team.processes, versions=versions,
            rounds=tuple(turns[team.name]), problem=problem,
        )
        for team in group.teams
    )  # fmt: skip
    ratios = [Ratio(name=one.team, beside=one.beside, target=one.target) for one in group.ratios]
    return CaseResult(
        name=name, title=group.title, unit="pictures", contenders=contenders,
        ratios=tuple(judged_ratio(ratio, turns, judge=judge) for ratio in ratios),
    )  # fmt: skip


def _about(team: Team) -> str:
    ways = {
        "fit": "keras.Model.fit, with the same compiled network and tf.data pipeline and nothing else",
        "trainer": "the train component",
        "mirrored": "MultiWorkerMirroredStrategy, its steps written out",
    }
    joined = f", strategy={team.strategy}" if team.joined and team.way == "trainer" else ""
    apart = "; its processes know nothing of each other" if team.processes > 1 and not team.joined else ""
    accumulated = f", gradient_accumulation_steps={team.accumulate}" if team.accumulate > 1 else ""
    return f"{ways[team.way]}{joined}{accumulated}{apart}"
