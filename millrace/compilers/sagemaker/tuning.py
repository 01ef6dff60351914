"""Tuning steps: SageMaker runs trials of a component that delegates training, and chooses their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from millrace.compilers.refusals import check_earlier, check_work
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import Expression, Step, get
from millrace.compilers.sagemaker.names import step_name
from millrace.compilers.sagemaker.ranges import parameter_ranges
from millrace.compilers.sagemaker.searches import Search, read_search
from millrace.compilers.sagemaker.strategies import strategy_fields
from millrace.compilers.sagemaker.training_job import (
    TrainingJob,
    algorithm,
    check_hyperparameters,
    hyperparameters,
    job_fields,
    metric_definition,
)
from millrace.errors import UnsupportedError, did_you_mean
from millrace.registry import load_component
from millrace.runtime.sagemaker.training import TEXTS
from millrace.specs import ComponentSpec, RuntimeParameter, Study, Task, TaskOutput

__all__ = ["tuning_step"]

_INSTEAD = "search in the step's own machine, target.tuning.kind=task"
_MOST_VARIABLES = 48
_MOST_ATTEMPTS = 30
_SECONDS = (120, 15_768_000)
_MOST_PARENTS = 5
_RAW = {"trials", "parallel", "seed"}


def tuning_step(task: Task, context: Compiling) -> Step:
    """A Tuning step.

    Raises:
        UnsupportedError: For what SageMaker's tuning has no counterpart for.
    """
    search = read_search(task)
    studies = _studies(task, context)
    inputs = {port: outputs for port, outputs in task.inputs.items() if port not in studies}
    searched = _searched(task, search, inputs)
    check_work(
        task.model_copy(update={"name": f"{task.name}.trial", "parameters": search.trial}), searched, task.distribution
    )
    check_earlier(f"{task.name}.trial", searched, search.trial)
    job = TrainingJob(task, searched, inputs, _MOST_VARIABLES)
    warm_start = _warm_start(task, context, studies)
    request = {
        "HyperParameterTuningJobConfig": _config(task, search, searched, context),
        "TrainingJobDefinition": _trials(job, search, context),
        **({"WarmStartConfig": warm_start} if warm_start else {}),
        **({"Tags": context.tags} if context.target.tags else {}),
    }
    return {
        "Name": step_name(task.name),
        "Type": "Tuning",
        "Arguments": request,
        **context.depends_on(task),
        **context.cache(task),
        **context.retries(task),
    }


def _searched(task: Task, search: Search, inputs: Mapping[str, tuple[TaskOutput, ...]]) -> ComponentSpec:
    searched = load_component(search.component).spec
    if "training" not in searched.delegates:
        raise UnsupportedError(
            f"{task.name}.component={search.component}: SageMaker's tuning starts training jobs, and this component is "
            f"not declared with delegates=('training',): {_INSTEAD}"
        )
    unknown = [port for port in inputs if searched.input(port) is None]
    if unknown:
        raise UnsupportedError(f"{task.name}.{unknown[0]}: component {searched.name!r} has no such input: {_INSTEAD}")
    metrics = [metric.name for metric in searched.metrics]
    if search.objective.metric not in metrics:
        raise UnsupportedError(
            f"{task.name}.objective.metric={search.objective.metric}: component {searched.name!r} reports no such "
            f"metric: {did_you_mean(search.objective.metric, metrics)}"
        )
    return searched


def _config(task: Task, search: Search, searched: ComponentSpec, context: Compiling) -> dict[str, Any]:
    opened = {path: context.open_value(one) for path, one in context.opened(task) if path in _RAW}
    kind = {"maximize": "Maximize", "minimize": "Minimize"}[search.objective.direction]
    seed = search.seed if context.target.tuning.seed is None else context.target.tuning.seed
    fixed = not opened.keys() & {"trials", "parallel"}
    limits: dict[str, Any] = {
        "MaxNumberOfTrainingJobs": opened.get("trials", search.trials),
        "MaxParallelTrainingJobs": opened.get(
            "parallel", min(search.parallel, search.trials) if fixed else search.parallel
        ),
    }
    if search.timeout_minutes is not None:
        limits["MaxRuntimeInSeconds"] = _timeout(task, search.timeout_minutes)
    strategy = strategy_fields(task, search, context)
    return {
        **strategy,
        "HyperParameterTuningJobObjective": {"Type": kind, "MetricName": search.objective.metric},
        "ResourceLimits": limits,
        "ParameterRanges": parameter_ranges(task, search, context.target.tuning.scaling),
        "RandomSeed": opened.get("seed", seed) if context.target.tuning.seed is None else seed,
    }


def _timeout(task: Task, minutes: float) -> int:
    seconds = math.ceil(minutes * 60)
    least, most = _SECONDS
    if not least <= seconds <= most:
        raise UnsupportedError(
            f"{task.name}.timeout_minutes={minutes:g}: SageMaker ends a search after {least // 60} to {most // 60} "
            f"minutes; give such a time, or {_INSTEAD}"
        )
    return seconds


def _trials(job: TrainingJob, search: Search, context: Compiling) -> dict[str, Any]:
    """The training job of each trial."""
    task = job.task
    fixed = {name: value for name, value in search.trial.items() if not search.is_searched(name)}
    found, texts = hyperparameters(fixed, _opened(task, search, context), context)
    everything: dict[str, Expression] = {**found, **dict.fromkeys(search.space, "")}
    check_hyperparameters(f"tasks.{task.name}", f"{task.name}.trial", everything)
    fields = job_fields(job, context)
    if texts:
        fields["Environment"] = dict(sorted({**fields["Environment"], TEXTS: ",".join(texts)}.items()))
    aim = search.objective
    definitions = [
        metric_definition(one.name, aim.intermediate if one.name == aim.metric else None)
        for one in job.component.metrics
    ]
    chosen = context.job(task).retries
    attempts = min(task.retries.limit if chosen is None else chosen, _MOST_ATTEMPTS)
    return {
        "AlgorithmSpecification": algorithm(job, context, definitions),
        **({"StaticHyperParameters": dict(sorted(found.items()))} if found else {}),
        **fields,
        **({"RetryStrategy": {"MaximumRetryAttempts": attempts}} if attempts else {}),
    }


def _opened(task: Task, search: Search, context: Compiling) -> list[tuple[str, RuntimeParameter]]:
    """Parameters of the trials that stay open; what is searched is put over them in any case."""
    found = []
    for path, one in context.opened(task):
        head, _, rest = path.partition(".")
        if head == "trial" and rest:
            if not search.is_searched(rest):
                found.append((rest, one))
        elif path not in _RAW:
            raise UnsupportedError(
                f"runtime: {one.name} can't stay open: {task.name}.{path} decides on SageMaker's tuning job, of which "
                f"only {task.name}.trial.*, trials, parallel and seed can: {_INSTEAD}"
            )
    return found


def _studies(task: Task, context: Compiling) -> dict[str, list[str]]:
    """Tuning tasks to learn from, by input.

    Raises:
        UnsupportedError: For studies that no tuning job has made.
    """
    found: dict[str, list[str]] = {}
    for port in context.component(task).inputs:
        if not port.artifact.fits(Study.artifact_type()) or port.name not in task.inputs:
            continue
        producers = [context.spec.task(output.task) for output in task.inputs[port.name]]
        for producer in producers:
            if context.kind(producer) != "tuning":
                raise UnsupportedError(
                    f"{task.name}.{port.name}: SageMaker's tuning learns from tuning jobs only, and "
                    f"{producer.name!r} is none: {_INSTEAD}"
                )
        found[port.name] = [producer.name for producer in producers]
    return found


def _warm_start(task: Task, context: Compiling, studies: dict[str, list[str]]) -> dict[str, Any]:
    asked = context.target.tuning.warm_start
    parents: list[Expression] = [] if asked is None else list(asked.parents)
    parents += [
        get(f"Steps.{step_name(name)}.HyperParameterTuningJobName") for names in studies.values() for name in names
    ]
    if len(parents) > _MOST_PARENTS:
        raise UnsupportedError(
            f"{task.name}.warm_start: {len(parents)} earlier searches, with target.tuning.warm_start.parents; "
            f"SageMaker learns from {_MOST_PARENTS} at most"
        )
    if not parents:
        return {}
    return {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": parent} for parent in parents],
        "WarmStartType": "TransferLearning" if asked is None else asked.kind,
    }
