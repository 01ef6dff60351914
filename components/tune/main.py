"""Search for parameters: trials are started, watched, ended early and counted here."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import TrialState
from pydantic import JsonValue

from millrace.components.tune.experiment import search_on_cluster
from millrace.components.tune.reporting import result
from millrace.components.tune.spec import TuneInputs, TuneOutputs, TuneParameters
from millrace.components.tune.study import Search
from millrace.components.tune.trials import Running, base_parameters, figures, finish, outcome, start, terminate
from millrace.errors import TaskFailedError, TransientError, UserError
from millrace.runtime.context import Context, Result, summary
from millrace.runtime.task import Failure
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
    place = _PLACES["" if context.cluster is None else context.cluster.kind]
    return place(parameters, inputs, outputs, context)


def _search_here(parameters: TuneParameters, inputs: TuneInputs, outputs: TuneOutputs, context: Context) -> Result:
    base = base_parameters(parameters)
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
    return result(search, parameters)


_PLACES: Mapping[str, Callable[[TuneParameters, TuneInputs, TuneOutputs, Context], Result]] = {
    "": _search_here,
    "experiment": search_on_cluster,
}


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
