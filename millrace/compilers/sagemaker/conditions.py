"""Condition steps: tasks under a condition stand inside it, and where it does not hold a message may end the run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from millrace.compilers.groups import Group
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import Expression, Step, get, join, json_get
from millrace.compilers.sagemaker.names import step_name
from millrace.errors import UnsupportedError
from millrace.specs import Condition, Task

__all__ = ["grouped_steps", "metric_value"]

_COMPARISONS = {">=": "GreaterThanOrEqualTo", ">": "GreaterThan", "<=": "LessThanOrEqualTo", "<": "LessThan"}


def grouped_steps(
    group: Group, context: Compiling, steps_of: Callable[[Task], list[Step]], names: Mapping[int, str] | None = None
) -> list[Step]:
    """The steps of a group's tasks, and a Condition step for each group below it."""
    named = _names(group) if names is None else names
    steps = [step for task in group.tasks for step in steps_of(task)]
    for condition, below in group.groups.values():
        name = named[id(below)]
        steps.append(_condition_step(name, condition, context, grouped_steps(below, context, steps_of, named)))
    return steps


def metric_value(condition: Condition, context: Compiling) -> Expression:
    """The value of the metric that a condition compares.

    Raises:
        UnsupportedError: For one that the service that does the work does not tell.
    """
    task, metric = context.spec.task(condition.metric.task), condition.metric.port
    kind, step = context.kind(task), step_name(task.name)
    if kind == "training":
        return get(f"Steps.{step}.FinalMetricDataList['{metric}'].Value")
    if kind == "tuning" and metric == "objective":
        return get(f"Steps.{step}.BestTrainingJob.FinalHyperParameterTuningJobObjectiveMetric.Value")
    if kind in ("tuning", "transform"):
        told = {"tuning": ("tuning", "only `objective`"), "transform": ("batch transform", "no metrics")}[kind]
        raise UnsupportedError(
            f"condition {condition}: SageMaker's {told[0]} job tells {told[1]}: run the task in the step's own "
            f"machine, target.{kind}.kind=task"
        )
    return json_get(step, "metrics", metric)


def _condition_step(name: str, condition: Condition, context: Compiling, steps: list[Step]) -> Step:
    value = metric_value(condition, context)
    threshold = _threshold(condition, context)
    comparison = {"Type": _COMPARISONS[condition.comparison], "LeftValue": value, "RightValue": threshold}
    unmet = context.target.unmet == "fail"
    return {
        "Name": name,
        "Type": "Condition",
        "Arguments": {
            "Conditions": [comparison],
            "IfSteps": steps,
            "ElseSteps": [_fail_step(f"{name}-unmet", condition, context)] if unmet else [],
        },
    }


def _fail_step(name: str, condition: Condition, context: Compiling) -> Step:
    threshold = _threshold(condition, context)
    message = join(
        "",
        f"{condition.metric} is ",
        metric_value(condition, context),
        f", and must be {condition.comparison} ",
        threshold if isinstance(threshold, str | dict) else f"{threshold:g}",
    )
    return {"Name": name, "Type": "Fail", "Arguments": {"ErrorMessage": message}}


def _threshold(condition: Condition, context: Compiling) -> float | Expression:
    if condition.runtime is None:
        return condition.threshold
    return get(f"Parameters.{context.parameters[condition.runtime]}")


def _names(root: Group) -> dict[int, str]:
    """Names of the Condition steps of all groups: by their metrics, numbered where there are several."""
    found: dict[int, str] = {}
    taken: set[str] = set()
    for condition, group in _below(root):
        name = step_name(f"when_{condition.metric.task}_{condition.metric.port}")
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        found[id(group)] = next(one for one in numbered if one not in taken)
        taken.add(found[id(group)])
    return found


def _below(group: Group) -> Iterator[tuple[Condition, Group]]:
    for condition, below in group.groups.values():
        yield condition, below
        yield from _below(below)
