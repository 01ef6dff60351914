"""The values that SageMaker's tuning chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.compilers.sagemaker.searches import Choices, Numbers, Search
from millrace.errors import ConfigError, UnsupportedError
from millrace.runtime.sagemaker.hyperparameters import encode
from millrace.specs import Task

__all__ = ["parameter_ranges"]

_INSTEAD = "or search in the step's own machine, target.tuning.kind=task"
_MOST_RANGES = 30
_MOST_CHOICES = 30
_LONGEST_CHOICE = 256
_GROUPS = {
    "float": "ContinuousParameterRanges",
    "int": "IntegerParameterRanges",
    "categorical": "CategoricalParameterRanges",
}


def parameter_ranges(task: Task, search: Search, scaling: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """A search's space as SageMaker's ranges.

    Args:
        task: The task that searches.
        search: Its search.
        scaling: How ranges are searched, by parameter; others follow the task.

    Raises:
        ConfigError: For a scaling that the limits don't allow.
        UnsupportedError: For ranges that SageMaker has no form for.
    """
    if not search.space:
        raise UnsupportedError(f"{task.name}.space: nothing is searched: leave the task out, or name a parameter")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, values in sorted(search.space.items()):
        path = f"{task.name}.space.{name}"
        made = (
            _categorical(path, name, values) if isinstance(values, Choices) else _numbers(path, name, values, scaling)
        )
        found.setdefault(_GROUPS[values.kind], []).append(made)
    for group, ranges in found.items():
        if len(ranges) > _MOST_RANGES:
            raise UnsupportedError(
                f"{task.name}.space: {len(ranges)} {group}; SageMaker takes {_MOST_RANGES}: search fewer, {_INSTEAD}"
            )
    return dict(sorted(found.items()))


def _numbers(path: str, name: str, values: Numbers, scaling: Mapping[str, str]) -> dict[str, Any]:
    if values.step is not None and not (values.kind == "int" and values.step == 1):
        raise UnsupportedError(
            f"{path}.step={values.step:g}: SageMaker's ranges have no steps: leave it out, list the values with "
            f"kind=categorical, {_INSTEAD}"
        )
    scale = scaling.get(name, "Logarithmic" if values.log else "Linear")
    where = f"target.tuning.scaling.{name}={scale}"
    if scale == "Logarithmic" and values.low <= 0:
        raise ConfigError(f"{where}: needs a range above 0, given {values.low:g} to {values.high:g}")
    if scale == "ReverseLogarithmic" and (values.kind == "int" or values.low < 0 or values.high >= 1):
        raise ConfigError(
            f"{where}: needs a range of kind float from 0 to below 1, given {values.kind} from {values.low:g} to "
            f"{values.high:g}"
        )
    limits = {"MinValue": values.limit(values.low), "MaxValue": values.limit(values.high)}
    return {"Name": name, **limits, "ScalingType": scale}


def _categorical(path: str, name: str, values: Choices) -> dict[str, Any]:
    if len(values.choices) > _MOST_CHOICES:
        raise UnsupportedError(
            f"{path}.choices: {len(values.choices)} values; SageMaker takes {_MOST_CHOICES}: give fewer, {_INSTEAD}"
        )
    texts = [encode(choice) for choice in values.choices]
    for text in texts:
        if len(text) > _LONGEST_CHOICE:
            raise UnsupportedError(
                f"{path}.choices: {text[:40]}... has {len(text)} characters as text; SageMaker takes "
                f"{_LONGEST_CHOICE}: search the fields of a group one by one, {_INSTEAD}"
            )
    return {"Name": name, "Values": texts}
