"""Rules across fields of tuning jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_jobs import once, training_job
from millrace.compilers.sagemaker.limits import HYPERPARAMETERS, SEARCHED, TUNING_JOBS, TUNING_PARALLEL
from millrace.compilers.sagemaker.view import StepView, View, error, mapping, number, pick, quoted, sequence, text
from millrace.errors import did_you_mean

__all__ = ["tuning"]

_CONFIG = "HyperParameterTuningJobConfig"
_LONGEST_NUMBER = 256
_KINDS = ("IntegerParameterRanges", "ContinuousParameterRanges", "CategoricalParameterRanges")


def tuning(view: View) -> Iterator[Finding]:
    """Tuning jobs: what is searched, by which strategy, how often, from what."""
    for step in view.of_kind("Tuning"):
        config = mapping(step.arguments.get(_CONFIG))
        yield from _limits(config, step.at(_CONFIG))
        yield from _strategy(config, step.at(_CONFIG))
        yield from _definitions(step, config)
        yield from _warm_start(step)


def _limits(config: Mapping[str, Any], path: str) -> Iterator[Finding]:
    limits = mapping(config.get("ResourceLimits"))
    most, parallel = number(limits.get("MaxNumberOfTrainingJobs")), number(limits.get("MaxParallelTrainingJobs"))
    if most is not None and parallel is not None and parallel > most:
        told = f"{parallel} at a time are more than MaxNumberOfTrainingJobs, {most}: lower it"
        yield error(f"{path}.ResourceLimits.MaxParallelTrainingJobs", told)
    elif parallel is not None and parallel > TUNING_PARALLEL:
        told = f"{parallel} at a time; a tuning job runs {TUNING_PARALLEL} at most"
        yield error(f"{path}.ResourceLimits.MaxParallelTrainingJobs", told)
    strategy = text(config.get("Strategy")) or ""
    if most is not None and most > TUNING_JOBS.get(strategy, most):
        told = f"{most:,} jobs; with the strategy {strategy} there are {TUNING_JOBS[strategy]:,} at most"
        yield error(f"{path}.ResourceLimits.MaxNumberOfTrainingJobs", told)


def _strategy(config: Mapping[str, Any], path: str) -> Iterator[Finding]:
    strategy = config.get("Strategy")
    band = mapping(pick(config, "StrategyConfig", "HyperbandStrategyConfig"))
    if band and strategy != "Hyperband" and isinstance(strategy, str):
        told = f"only the strategy Hyperband has this, given {strategy}: leave it out"
        yield error(f"{path}.StrategyConfig.HyperbandStrategyConfig", told)
    least, most = number(band.get("MinResource")), number(band.get("MaxResource"))
    if least is not None and most is not None and least >= most:
        told = f"{least} is not less than MaxResource, {most}"
        yield error(f"{path}.StrategyConfig.HyperbandStrategyConfig.MinResource", told)
    if strategy == "Hyperband" and config.get("TrainingJobEarlyStoppingType") == "Auto":
        yield error(f"{path}.TrainingJobEarlyStoppingType", "Hyperband ends jobs early by itself: take Off")


def _definitions(step: StepView, config: Mapping[str, Any]) -> Iterator[Finding]:
    """The training jobs that are tuned; one has its ranges in the config, several have their own."""
    several = "TrainingJobDefinitions" in step.arguments
    if several == ("TrainingJobDefinition" in step.arguments):
        told = f"{'both are' if several else 'none is'} given"
        yield error(step.at(), f"either TrainingJobDefinition or TrainingJobDefinitions is needed, {told}")
        return
    strategy = config.get("Strategy")
    if not several:
        job, path = mapping(step.arguments["TrainingJobDefinition"]), step.at("TrainingJobDefinition")
        yield from training_job(job, path)
        yield from _objective(config.get("HyperParameterTuningJobObjective"), job, step.at(_CONFIG))
        ranges, where = config.get("ParameterRanges"), step.at(_CONFIG, "ParameterRanges")
        yield from _searched(ranges, where, job, strategy, "Autotune" in step.arguments)
        return
    yield from once(
        sequence(step.arguments["TrainingJobDefinitions"]), "DefinitionName", step.at("TrainingJobDefinitions")
    )
    for index, one in enumerate(sequence(step.arguments["TrainingJobDefinitions"])):
        job, path = mapping(one), f"{step.at('TrainingJobDefinitions')}[{index}]"
        yield from training_job(job, path)
        yield from _objective(job.get("TuningObjective"), job, path)
        yield from _searched(job.get("HyperParameterRanges"), f"{path}.HyperParameterRanges", job, strategy)


def _objective(objective: Any, job: Mapping[str, Any], path: str) -> Iterator[Finding]:
    name = text(mapping(objective).get("MetricName"))
    definitions = sequence(pick(job, "AlgorithmSpecification", "MetricDefinitions"))
    known = [found for one in definitions if (found := text(mapping(one).get("Name"))) is not None]
    field = "TuningObjective" if "TuningObjective" in job else "HyperParameterTuningJobObjective"
    if name is not None and known and name not in known:
        told = f"no metric definition is called {name!r}: {did_you_mean(name, known)}"
        yield error(f"{path}.{field}.MetricName", told)


def _searched(
    ranges: Any, path: str, job: Mapping[str, Any], strategy: Any, automatic: bool = False
) -> Iterator[Finding]:
    static = mapping(job.get("StaticHyperParameters"))
    seen: dict[str, str] = {}
    for kind in _KINDS:
        for index, one in enumerate(sequence(mapping(ranges).get(kind))):
            where = f"{path}.{kind}[{index}]"
            yield from _range(one, kind, where, strategy)
            name = text(mapping(one).get("Name"))
            if name is None:
                continue
            if name in seen:
                yield error(f"{where}.Name", f"{name!r} is searched by {seen[name]}, too: take one out")
            if name in static:
                told = "it is in StaticHyperParameters, too: a hyperparameter is searched or fixed"
                yield error(f"{where}.Name", f"{name!r} is searched, and {told}")
            seen.setdefault(name, where)
    own = bool(sequence(mapping(ranges).get("AutoParameters")))
    if not seen and not automatic and not own and (ranges is None or mapping(ranges)):
        yield error(path, f"nothing is searched: give at least one of {', '.join(_KINDS)}")
    if len(seen) > SEARCHED:
        yield error(path, f"{len(seen)} hyperparameters are searched, at most {SEARCHED} are allowed")
    elif len(seen) + len(static) > HYPERPARAMETERS:
        told = f"{len(seen)} searched and {len(static)} fixed hyperparameters, together at most {HYPERPARAMETERS}"
        yield error(path, f"{told} are allowed")


def _range(given: Any, kind: str, path: str, strategy: Any) -> Iterator[Finding]:
    one = mapping(given)
    if kind == "CategoricalParameterRanges":
        values = sequence(one.get("Values"))
        known = [value for value in values if isinstance(value, str)]
        if len(set(known)) < len(known):
            twice = next(value for value in known if known.count(value) > 1)
            yield error(f"{path}.Values", f"{twice!r} is there twice: take one out")
        return
    if strategy == "Grid":
        told = (
            "the strategy Grid searches categories only: make it a CategoricalParameterRange, or take another strategy"
        )
        yield error(path, told)
        return
    ends: dict[str, float] = {}
    for field in ("MinValue", "MaxValue"):
        value = one.get(field)
        if not isinstance(value, str) or len(value) > _LONGEST_NUMBER:
            continue
        try:
            ends[field] = int(value) if kind.startswith("Integer") else float(value)
        except ValueError:
            what = "a whole number" if kind.startswith("Integer") else "a number"
            yield error(f"{path}.{field}", f"{quoted(value)} is not {what}")
    if len(ends) == 2:
        yield from _ends(ends["MinValue"], ends["MaxValue"], one.get("ScalingType"), kind, path)


def _ends(least: float, most: float, scaling: Any, kind: str, path: str) -> Iterator[Finding]:
    if not least <= most:
        yield error(f"{path}.MinValue", f"{least:g} is more than MaxValue, {most:g}")
    elif scaling == "Logarithmic" and least <= 0:
        yield error(f"{path}.MinValue", f"{least:g}: with Logarithmic scaling, values are more than 0")
    elif scaling == "ReverseLogarithmic" and kind.startswith("Integer"):
        yield error(f"{path}.ScalingType", "ReverseLogarithmic is for continuous ranges: take another")
    elif scaling == "ReverseLogarithmic" and not (least >= 0 and most < 1):
        told = f"{least:g} to {most:g}: with ReverseLogarithmic scaling, values are from 0 to less than 1"
        yield error(f"{path}.MinValue", told)


def _warm_start(step: StepView) -> Iterator[Finding]:
    parents = sequence(pick(step.arguments, "WarmStartConfig", "ParentHyperParameterTuningJobs"))
    path = step.at("WarmStartConfig", "ParentHyperParameterTuningJobs")
    yield from once(parents, "HyperParameterTuningJobName", path)
