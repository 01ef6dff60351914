"""Search for parameters: trials are started, watched, ended early and counted here."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import TrialState
from pydantic import JsonValue

from millrace.components.tune.space import check_space
from millrace.components.tune.spec import TuneInputs, TuneOutputs, TuneParameters
from millrace.components.tune.study import Search
from millrace.components.tune.trials import Running, figures, finish, outcome, start, terminate
from millrace.errors import ConfigError, TaskFailedError, TransientError, UserError, did_you_mean
from millrace.registry import load_component
from millrace.runtime.context import Context, Result, summary
from millrace.runtime.task import Failure
from millrace.specs import Chart, Curve, Lines, Scatter
from millrace.specs.dotted import merged

__all__ = ["main"]

_POLL_SECONDS = 0.2
_TERMINATED = 128 + signal.SIGTERM


@dataclass
class _Tuning:
    """A search on its way."""

    parameters: TuneParameters
    base: dict[str, JsonValue]
    records: Path
    context: Context
    search: Search
    running: dict[int, tuple[optuna.Trial, Running]] = field(default_factory=dict)
    first_failure: str = ""


def main(parameters: TuneParameters, inputs: TuneInputs, outputs: TuneOutputs, context: Context) -> Result:
    """Run trials until the budget is used, and write the study."""
    base = _checked(parameters)
    search = Search(context.checkpoints / "study.db", parameters)
    if known := search.warm_up([study.path for study in inputs.warm_start]):
        context.log.info("warm start with %d trials of %d earlier studies", known, len(inputs.warm_start))
    tuning = _Tuning(parameters, base, inputs.records.path, context, search)
    with _children_ended(tuning):
        _run(tuning)
    best = search.best()
    if best is None or best.value is None:
        raise TaskFailedError(f"none of the {len(search.own())} trials finished: {tuning.first_failure}")
    search.write(outputs.study.path)
    count = len(search.own())
    return Result(
        metrics={"objective": best.value, "trials": float(count)},
        charts=_charts(search, parameters),
        metadata={"study": {"trials": count, "best": best.value}},
    )


def _checked(parameters: TuneParameters) -> dict[str, JsonValue]:
    searched = load_component(parameters.component)
    metrics = [metric.name for metric in searched.spec.metrics]
    if parameters.objective.metric not in metrics:
        raise ConfigError(
            f"objective.metric={parameters.objective.metric} is not reported by {searched.spec.name!r}: "
            f"{did_you_mean(parameters.objective.metric, metrics)}"
        )
    if not parameters.space:
        raise ConfigError("space is empty: name at least one parameter to search")
    return check_space(searched.parameters, parameters.trial, parameters.space)


def _run(tuning: _Tuning) -> None:
    minutes = tuning.parameters.timeout_minutes
    deadline = math.inf if minutes is None else time.monotonic() + minutes * 60
    for trial in tuning.search.unfinished():
        _start(tuning, trial)
    while True:
        finished = len(tuning.search.own())
        tuning.context.progress(finished, tuning.parameters.trials, "trials")
        late = time.monotonic() > deadline
        if late and tuning.search.best() is not None:
            _end_running(tuning)
        wanted = 0 if late and finished else tuning.parameters.trials - finished - len(tuning.running)
        for _ in range(min(wanted, tuning.parameters.parallel - len(tuning.running))):
            _start(tuning, tuning.search.ask())
        if not tuning.running:
            return
        time.sleep(_POLL_SECONDS)
        for trial, running in list(tuning.running.values()):
            _watch(tuning, trial, running)


def _start(tuning: _Tuning, trial: optuna.Trial) -> None:
    directory = tuning.context.checkpoints / "trials" / f"{trial.number:05d}"
    running = start(
        trial.number,
        directory,
        tuning.parameters.component,
        merged(tuning.base, tuning.search.chosen(trial)),
        tuning.records,
        max(1, tuning.context.cores // tuning.parameters.parallel),
    )
    tuning.running[trial.number] = (trial, running)


def _watch(tuning: _Tuning, trial: optuna.Trial, running: Running) -> None:
    """Take up what a trial has done since the last look."""
    ended = running.process.poll() is not None
    reported = tuning.search.reported(trial)
    for epoch, value in figures(running, tuning.parameters.objective.intermediate).items():
        if epoch in reported:
            continue
        trial.report(value, epoch)
        if not ended and trial.should_prune():
            terminate([running])
            _close(tuning, trial, running, TrialState.PRUNED)
            return
    if ended and running.restart():
        tuning.context.log.warning("trial %d vanished; it goes on from its checkpoint", trial.number)
    elif ended:
        _settle(tuning, trial, running)


def _settle(tuning: _Tuning, trial: optuna.Trial, running: Running) -> None:
    """Judge a trial whose process has ended."""
    ended = outcome(running)
    if not isinstance(ended, Failure):
        _close(tuning, trial, running, TrialState.COMPLETE, ended[tuning.parameters.objective.metric])
        return
    reason = f"trial {trial.number} ({_shown(tuning, trial)}): {ended.message}"
    if ended.kind == "user":
        raise UserError(reason)
    if ended.kind in ("transient", "disk_full"):
        raise (TransientError if ended.kind == "transient" else TaskFailedError)(reason)
    tuning.first_failure = tuning.first_failure or reason
    tuning.context.log.warning("%s", reason)
    _close(tuning, trial, running, TrialState.FAIL)


def _close(
    tuning: _Tuning, trial: optuna.Trial, running: Running, state: TrialState, value: float | None = None
) -> None:
    tuning.search.tell(trial, state, value)
    finish(running)
    del tuning.running[trial.number]
    objective = "" if value is None else f"objective={value:.6g} "
    print(f"trial={trial.number} state={state.name.lower()} {objective}{_shown(tuning, trial)}", flush=True)


def _end_running(tuning: _Tuning) -> None:
    """The time is over: what still runs counts as ended early."""
    terminate([running for _, running in tuning.running.values()])
    for trial, running in list(tuning.running.values()):
        _close(tuning, trial, running, TrialState.PRUNED)


def _shown(tuning: _Tuning, trial: optuna.Trial) -> str:
    return " ".join(
        summary({name: value}) if isinstance(value, float) else f"{name}={value}"
        for name, value in tuning.search.chosen(trial).items()
    )


@contextmanager
def _children_ended(tuning: _Tuning) -> Iterator[None]:
    """Whatever ends this process in an orderly way ends its trials; they go on when it is run again."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if main_thread else None
    try:
        yield
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        terminate([running for _, running in tuning.running.values()])
        if main_thread:
            signal.signal(signal.SIGTERM, before)


def _charts(search: Search, parameters: TuneParameters) -> tuple[Chart, ...]:
    records = [record for record in search.records() if record.value is not None]
    pruned = [record for record in search.records() if record.state == "pruned" and record.intermediate]
    numbers = tuple(float(record.number) for record in records)
    values = tuple(record.value for record in records if record.value is not None)
    better = max if parameters.objective.direction == "maximize" else min
    curves = [Curve(name="complete", x=numbers, y=values)]
    if pruned:
        last = tuple(list(record.intermediate.values())[-1] for record in pruned)
        curves.append(Curve(name="ended early", x=tuple(float(record.number) for record in pruned), y=last))
    metric = parameters.objective.metric
    best = search.best()
    return (
        Scatter(
            name="trials",
            title="Trials",
            x_label="trial",
            y_label=metric,
            curves=tuple(curves),
            marked_x=float(best.number) if best else None,
        ),
        Lines(
            name="best_so_far",
            title="Best so far",
            x_label="trial",
            y_label=metric,
            curves=(Curve(name="best", x=numbers, y=tuple(accumulate(values, better))),),
        ),
    )
