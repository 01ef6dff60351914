"""A tuning job: training jobs with hyperparameters of its choice, and what is told about them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from millrace.errors import MillraceError, TaskFailedError
from millrace.runners.record import TaskState
from millrace.runners.sagemaker.place import Ended
from millrace.runners.sagemaker.record import StepRecord, TrialRecord
from millrace.runners.sagemaker.run import Run
from millrace.runners.sagemaker.search import Search, falls_behind, open_search, read_ranges
from millrace.runners.sagemaker.support import training_arguments
from millrace.runners.sagemaker.training import run_training

__all__ = ["tune"]

OBJECTIVE_KEY = "_tuning_objective_metric"
"""The hyperparameter that the service adds to every job."""
_NEWEST = "FinalHyperParameterTuningJobObjectiveMetric"


@dataclass
class _Trial:
    """One training job."""

    name: str
    values: dict[str, str]
    entry: TrialRecord
    started: datetime
    objectives: list[float] = field(default_factory=list)
    """One for each line of the log that told it."""
    stop: threading.Event = field(default_factory=threading.Event)
    state: str = "InProgress"
    reason: str = ""


@dataclass
class _Tuning:
    """A tuning job that goes on."""

    run: Run
    name: str
    config: Mapping[str, Any]
    definition: Mapping[str, Any]
    """Of its training jobs."""
    entry: StepRecord
    search: Search
    metric: str
    maximize: bool
    pattern: re.Pattern[str]
    early: bool
    trials: list[_Trial] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, trial: _Trial, line: str) -> None:
        """Read a line of a job's log; stop the job when it falls behind."""
        found = self.pattern.search(line)
        if found is None:
            return
        with self.lock:
            try:
                trial.objectives.append(float(found[1] if found.re.groups else found[0]))
            except ValueError:
                return
            trial.entry.objective = trial.objectives[-1]
            ended = [other.objectives for other in self.trials if other.state == "Completed"]
            if self.early and falls_behind(trial.objectives, ended, maximize=self.maximize):
                trial.stop.set()

    def ranked(self) -> list[_Trial]:
        """Jobs with an objective, the best one first."""
        rated = [trial for trial in self.trials if trial.objectives and trial.state in ("Completed", "Stopped")]
        return sorted(rated, key=lambda trial: trial.objectives[-1], reverse=self.maximize)


async def tune(run: Run, entry: StepRecord, arguments: Mapping[str, Any]) -> Ended:
    """Run a tuning job to its end.

    Raises:
        TaskFailedError: When it can't begin.
    """
    config = arguments["HyperParameterTuningJobConfig"]
    tuning = _begin(run, entry, config, arguments["TrainingJobDefinition"])
    _learn(tuning, arguments.get("WarmStartConfig") or {})
    limits = config["ResourceLimits"]
    most = int(limits.get("MaxNumberOfTrainingJobs", 500))
    together = min(int(limits.get("MaxParallelTrainingJobs", 1)), run.parallel)
    ends = time.monotonic() + float(limits.get("MaxRuntimeInSeconds", float("inf")))
    run.started(entry)
    running: set[asyncio.Task[None]] = set()
    number = 0
    reason = ""
    try:
        while True:
            reason = reason or _enough(tuning, config.get("TuningJobCompletionCriteria") or {}, ends)
            while not reason and number < most and len(running) < together:
                values = tuning.search.ask(number)
                if values is None:
                    most = number
                    break
                number += 1
                running.add(asyncio.create_task(_trial(tuning, number, values)))
            if not running:
                break
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return _ended(tuning, arguments, reason)


def _begin(run: Run, entry: StepRecord, config: Mapping[str, Any], definition: Mapping[str, Any]) -> _Tuning:
    objective = config.get("HyperParameterTuningJobObjective") or definition.get("TuningObjective")
    if not objective:
        raise TaskFailedError("HyperParameterTuningJobObjective: missing")
    metric = str(objective["MetricName"])
    known = definition["AlgorithmSpecification"].get("MetricDefinitions") or []
    pattern = next((item["Regex"] for item in known if item["Name"] == metric), None)
    if pattern is None:
        names = ", ".join(str(item["Name"]) for item in known) or "none"
        raise TaskFailedError(f"the objective {metric!r} is not among the MetricDefinitions ({names})")
    maximize = objective["Type"] == "Maximize"
    ranges = read_ranges(config.get("ParameterRanges") or definition.get("HyperParameterRanges") or {})
    seed = int(config.get("RandomSeed", 0))
    strategy = str(config["Strategy"])
    return _Tuning(
        run,
        entry.job,
        config,
        definition,
        entry,
        open_search(strategy, ranges, seed, maximize=maximize),
        metric,
        maximize,
        re.compile(pattern),
        config.get("TrainingJobEarlyStoppingType") == "Auto" and strategy != "Hyperband",
    )


def _learn(tuning: _Tuning, warm: Mapping[str, Any]) -> None:
    """Begin with what earlier tuning jobs of this rehearsal have found."""
    for parent in warm.get("ParentHyperParameterTuningJobs") or []:
        name = parent["HyperParameterTuningJobName"]
        steps = tuning.run.properties.values()
        found = next((item for item in steps if item.get("HyperParameterTuningJobName") == name), None)
        if found is None:
            tuning.run.record.notes.append(f"{tuning.entry.name}: begins without the tuning job {name}: it is not here")
            continue
        for summary in found["TrainingJobSummaries"]:
            if _NEWEST in summary:
                tuning.search.learn(summary["TunedHyperParameters"], summary[_NEWEST]["Value"])


async def _trial(tuning: _Tuning, number: int, values: dict[str, str]) -> None:
    """Run one training job; when it fails, the others go on."""
    run = tuning.run
    name = f"{tuning.name}-{number:03d}-{run.record.execution[:8]}"
    async with run.slots:
        trial = _Trial(name, values, TrialRecord(name=name, hyperparameters=values), datetime.now(UTC))
        tuning.trials.append(trial)
        tuning.entry.trials.append(trial.entry)
        resources = training_arguments(tuning.definition).get("ResourceConfig", {})
        tuning.entry.hosts = int(resources.get("InstanceCount", 1))
        run.changed()
        static = tuning.definition.get("StaticHyperParameters") or {}
        arguments = {
            **training_arguments(tuning.definition),
            "HyperParameters": {**static, **values, OBJECTIVE_KEY: tuning.metric},
        }
        began = time.monotonic()
        try:
            ended = await asyncio.to_thread(
                run_training,
                run.place,
                name,
                arguments,
                watch=lambda host, line: tuning.watch(trial, line),
                stop=trial.stop,
            )
        except MillraceError as error:
            ended = Ended("Failed", str(error), {})
        except asyncio.CancelledError:
            trial.entry.state = TaskState.CANCELLED
            raise
    trial.entry.seconds = round(time.monotonic() - began, 3)
    trial.entry.logs = list(ended.logs)
    _note(tuning, trial, ended)
    tuning.search.tell(number - 1, trial.objectives[-1] if trial.objectives and ended.state != "Failed" else None)
    run.changed()


def _note(tuning: _Tuning, trial: _Trial, ended: Ended) -> None:
    trial.state, trial.reason = ended.state, ended.reason
    trial.entry.reason = ended.reason
    if ended.state == "Stopped" and trial.stop.is_set():
        trial.entry.state, trial.entry.reason = TaskState.SUCCEEDED, "stopped early: worse than the median"
    elif ended.state != "Completed":
        trial.entry.state = TaskState.FAILED
    elif not trial.objectives:
        trial.state = "Failed"
        trial.entry.state = TaskState.FAILED
        trial.entry.reason = trial.reason = f"no line of its log has the objective {tuning.metric!r}"
    else:
        trial.entry.state = TaskState.SUCCEEDED


def _enough(tuning: _Tuning, criteria: Mapping[str, Any], ends: float) -> str:
    """Why no more jobs are started, or nothing."""
    if time.monotonic() > ends:
        return "MaxRuntimeInSeconds is over"
    ranked = tuning.ranked()
    target = criteria.get("TargetObjectiveMetricValue")
    if target is not None and ranked:
        best = ranked[0].objectives[-1]
        if best >= float(target) if tuning.maximize else best <= float(target):
            return f"the objective has reached {float(target):g}"
    patience = (criteria.get("BestObjectiveNotImproving") or {}).get("MaxNumberOfTrainingJobsNotImproving")
    ended = [trial for trial in tuning.trials if trial.state != "InProgress"]
    if patience is not None and ranked and len(ended) - ended.index(ranked[0]) - 1 >= int(patience):
        return f"{patience} jobs have not been better than the best one"
    return ""


def _ended(tuning: _Tuning, arguments: Mapping[str, Any], reason: str) -> Ended:
    ranked = tuning.ranked()
    rest = [trial for trial in tuning.trials if trial not in ranked]
    states = [trial.state for trial in tuning.trials]
    properties: dict[str, Any] = {
        **arguments,
        "HyperParameterTuningJobName": tuning.name,
        "HyperParameterTuningJobArn": tuning.run.place.arn("hyper-parameter-tuning-job", tuning.name),
        "HyperParameterTuningJobStatus": "Completed" if ranked else "Failed",
        "TrainingJobStatusCounters": {
            "Completed": states.count("Completed"),
            "InProgress": 0,
            "RetryableError": 0,
            "NonRetryableError": states.count("Failed"),
            "Stopped": states.count("Stopped"),
        },
        "ObjectiveStatusCounters": {"Succeeded": len(ranked), "Pending": 0, "Failed": len(rest)},
        "TrainingJobSummaries": [_summary(tuning, trial) for trial in (*ranked, *rest)],
    }
    if not ranked:
        first: Sequence[str] = [trial.reason for trial in rest if trial.reason]
        return Ended("Failed", f"no training job has given an objective: {first[0] if first else reason}", properties)
    best = properties["TrainingJobSummaries"][0]
    properties["BestTrainingJob"] = properties["OverallBestTrainingJob"] = best
    tuning.entry.metrics = {tuning.metric: best[_NEWEST]["Value"]}
    tuning.entry.outputs = {f"best {name}": value for name, value in ranked[0].values.items()}
    return Ended("Completed", reason, properties)


def _summary(tuning: _Tuning, trial: _Trial) -> dict[str, Any]:
    rated = trial in tuning.ranked()
    found: dict[str, Any] = {
        "TrainingJobName": trial.name,
        "TrainingJobArn": tuning.run.place.arn("training-job", trial.name),
        "TuningJobName": tuning.name,
        "CreationTime": trial.started.isoformat(),
        "TrainingJobStatus": trial.state,
        "TunedHyperParameters": trial.values,
        "ObjectiveStatus": "Succeeded" if rated else "Failed",
    }
    if trial.reason:
        found["FailureReason"] = trial.reason
    if rated:
        found[_NEWEST] = {
            "Type": "Maximize" if tuning.maximize else "Minimize",
            "MetricName": tuning.metric,
            "Value": trial.objectives[-1],
        }
    return found
