"""The search itself: an Optuna study in a journal file that survives being killed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue, ValidationError

from millrace.components.tune.space import Choices, FloatRange, IntRange, Space
from millrace.components.tune.spec import Hyperband, MedianRule, Objective, TpeSampler, TuneParameters
from millrace.errors import DataError, explain_validation
from millrace.runtime.task import write_atomically
from millrace.specs import Frozen

__all__ = ["Search", "TrialRecord", "Trials"]

_NAME = "millrace"
_EARLIER = "earlier"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class TrialRecord(Frozen):
    """One trial in `trials.json`."""

    number: int
    state: str
    """complete, pruned or fail."""
    parameters: dict[str, JsonValue]
    value: float | None
    seconds: float
    intermediate: dict[int, float]
    """Value by epoch."""


class Trials(Frozen):
    """`trials.json`."""

    objective: Objective
    trials: tuple[TrialRecord, ...]


class Search:
    """An Optuna study that goes on where it was left."""

    def __init__(self, file: Path, parameters: TuneParameters) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.file = file
        self.parameters = parameters
        self._distributions = {name: _distribution(item) for name, item in sorted(parameters.space.items())}
        _mend(file)
        self._storage = JournalStorage(JournalFileBackend(str(file)))
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=_NAME,
            direction=parameters.objective.direction,
            pruner=_pruner(parameters),
            load_if_exists=True,
        )

    def warm_up(self, folders: Sequence[Path]) -> int:
        """Learn from earlier studies, once; returns how many of their trials fit this search."""
        if self._study.trials or not folders:
            return 0
        known = [trial for folder in folders for trial in self._fitting(folder)]
        bests = {json.dumps(trial.params): trial.params for trial in sorted(known, key=self._rank)[: len(folders)]}
        for parameters in bests.values():
            self._study.enqueue_trial(parameters)
        for trial in known:
            self._study.add_trial(trial)
        return len(known)

    def ask(self) -> optuna.Trial:
        """The next trial, its parameters chosen."""
        # a sampler for each number, so that a search that was killed chooses as if it had not been
        self._study.sampler = _sampler(self.parameters, len(self._study.trials))
        return self._study.ask(self._distributions)

    def unfinished(self) -> list[optuna.Trial]:
        """Trials that were running when an earlier attempt was killed."""
        study = self._storage.get_study_id_from_name(_NAME)
        running = (trial.number for trial in self._study.get_trials(states=(TrialState.RUNNING,)))
        numbers = [self._storage.get_trial_id_from_study_id_trial_number(study, number) for number in running]
        trials = [optuna.Trial(self._study, number) for number in numbers]
        for trial in trials:
            self.chosen(trial)
        return trials

    def chosen(self, trial: optuna.Trial) -> dict[str, JsonValue]:
        """A trial's parameters by dotted name; chosen now where that was not done yet."""
        for name, item in sorted(self.parameters.space.items()):
            if isinstance(item, FloatRange):
                trial.suggest_float(name, item.low, item.high, log=item.log, step=item.step)
            elif isinstance(item, IntRange):
                trial.suggest_int(name, item.low, item.high, log=item.log, step=item.step)
            else:
                trial.suggest_categorical(name, [json.dumps(choice) for choice in item.choices])
        return _decoded(trial.params, self.parameters.space)

    def reported(self, trial: optuna.Trial) -> set[int]:
        """Epochs of which the trial's value is known."""
        return set(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        """Finish a trial."""
        self._study.tell(trial, value, state, skip_if_finished=True)

    def take(self, records: Sequence[TrialRecord]) -> None:
        """Add trials that were run elsewhere, if there are none yet."""
        if self._study.trials:
            return
        begun = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)  # Optuna knows no time zones
        for record in records:
            trial = optuna.trial.create_trial(
                state=TrialState[record.state.upper()],
                params=_encoded(record.parameters, self.parameters.space),
                distributions=self._distributions,
                value=record.value,
                intermediate_values=record.intermediate,
            )
            trial.datetime_start, trial.datetime_complete = begun, begun + timedelta(seconds=record.seconds)
            self._study.add_trial(trial)

    def own(self) -> list[FrozenTrial]:
        """Finished trials of this search."""
        return [trial for trial in self._study.get_trials(states=_FINISHED) if _EARLIER not in trial.user_attrs]

    def best(self) -> FrozenTrial | None:
        """The best finished trial of this search; the first among equals."""
        complete = (trial for trial in self.own() if trial.state is TrialState.COMPLETE)
        return min(complete, key=self._rank, default=None)

    def records(self) -> tuple[TrialRecord, ...]:
        """Finished trials of this search as data."""
        return tuple(
            TrialRecord(
                number=trial.number,
                state=trial.state.name.lower(),
                parameters=_decoded(trial.params, self.parameters.space),
                value=trial.value if trial.state is TrialState.COMPLETE else None,
                seconds=round(trial.duration.total_seconds(), 3) if trial.duration else 0.0,
                intermediate=dict(sorted(trial.intermediate_values.items())),
            )
            for trial in self.own()
        )

    def write(self, folder: Path) -> None:
        """Write `best.json` and `trials.json`, and copy the journal."""
        best = self.best()
        if best is None:
            raise ValueError("no trial is complete")
        chosen = {"parameters": _decoded(best.params, self.parameters.space), "value": best.value}
        write_atomically(folder / "best.json", json.dumps(chosen, indent=2) + "\n")
        trials = Trials(objective=self.parameters.objective, trials=self.records())
        write_atomically(folder / "trials.json", trials.model_dump_json(indent=2) + "\n")
        (folder / "study.db").write_bytes(self.file.read_bytes())

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        value = trial.value or 0.0
        return (-value if self.parameters.objective.direction == "maximize" else value, trial.number)

    def _fitting(self, folder: Path) -> list[FrozenTrial]:
        path = folder / "trials.json"
        try:
            earlier = Trials.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            raise DataError(f"{path} is not of a study: {explain_validation(error)}") from error
        wanted = self.parameters.objective
        if (earlier.objective.metric, earlier.objective.direction) != (wanted.metric, wanted.direction):
            return []
        return [
            optuna.trial.create_trial(
                params=_encoded(record.parameters, self.parameters.space),
                distributions=self._distributions,
                value=record.value,
                user_attrs={_EARLIER: True},
            )
            for record in earlier.trials
            if record.value is not None and self._fits(record.parameters)
        ]

    def _fits(self, parameters: Mapping[str, JsonValue]) -> bool:
        space = self.parameters.space
        return parameters.keys() == space.keys() and all(_inside(space[name], parameters[name]) for name in space)


def _inside(item: FloatRange | IntRange | Choices, value: JsonValue) -> bool:
    if isinstance(item, Choices):
        return value in item.choices
    if isinstance(value, bool) or not isinstance(value, int if isinstance(item, IntRange) else int | float):
        return False
    return item.low <= value <= item.high


def _mend(file: Path) -> None:
    """Remove what a killed process leaves in the way: its lock, and a line written by half.

    Only one process works on a task directory, so no other can hold the lock.
    """
    Path(f"{file}.lock").unlink(missing_ok=True)
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        file.write_bytes(content[: content.rfind(b"\n") + 1])


def _distribution(item: FloatRange | IntRange | Choices) -> optuna.distributions.BaseDistribution:
    if isinstance(item, FloatRange):
        return optuna.distributions.FloatDistribution(item.low, item.high, item.log, item.step)
    if isinstance(item, IntRange):
        return optuna.distributions.IntDistribution(item.low, item.high, item.log, item.step)
    return optuna.distributions.CategoricalDistribution([json.dumps(choice) for choice in item.choices])


def _encoded(parameters: Mapping[str, JsonValue], space: Space) -> dict[str, Any]:
    """Choices as JSON text: Optuna takes plain values only."""
    return {
        name: json.dumps(value) if isinstance(space.get(name), Choices) else value
        for name, value in sorted(parameters.items())
    }


def _decoded(parameters: Mapping[str, Any], space: Space) -> dict[str, JsonValue]:
    return {
        name: json.loads(value) if isinstance(space.get(name), Choices) else value
        for name, value in sorted(parameters.items())
    }


def _sampler(parameters: TuneParameters, number: int) -> optuna.samplers.BaseSampler:
    seed = (parameters.seed * 1_000_003 + number) % 2**32
    sampler = parameters.sampler
    if isinstance(sampler, TpeSampler):
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=sampler.startup_trials, multivariate=sampler.multivariate
        )
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(parameters: TuneParameters) -> optuna.pruners.BasePruner:
    pruner = parameters.pruner
    if isinstance(pruner, MedianRule):
        return optuna.pruners.MedianPruner(pruner.startup_trials, pruner.warmup_epochs)
    if isinstance(pruner, Hyperband):
        return optuna.pruners.HyperbandPruner(pruner.smallest, pruner.largest or "auto", pruner.reduction)
    return optuna.pruners.NopPruner()
