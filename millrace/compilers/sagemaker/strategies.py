"""How SageMaker's tuning chooses values and ends bad trials, for a task's sampler and pruner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.searches import Choices, Search
from millrace.errors import UnsupportedError
from millrace.specs import Task

__all__ = ["strategy_fields"]

_INSTEAD = "or search in the step's own machine, target.tuning.kind=task"


def strategy_fields(task: Task, search: Search, context: Compiling) -> dict[str, Any]:
    """Strategy, its configuration, and early stopping.

    Raises:
        UnsupportedError: For details of the sampler or pruner that SageMaker has no setting for, and for what
            can't be together.
    """
    asked = context.target.tuning
    pruner = search.pruner.get("kind", "none")
    strategy = asked.strategy or _followed(search)
    _check_details(task, search, context)
    if pruner == "hyperband" and strategy != "Hyperband":
        raise UnsupportedError(
            f"{task.name}.pruner.kind=hyperband: goes with target.tuning.strategy=Hyperband only, given {strategy}: "
            f"use pruner.kind=median or none, {_INSTEAD}"
        )
    if strategy == "Hyperband":
        if asked.early_stopping == "Auto":
            raise UnsupportedError(
                "target.tuning.early_stopping=Auto: the strategy Hyperband ends trials itself: leave it out"
            )
        configuration = {"StrategyConfig": {"HyperbandStrategyConfig": _resources(task, search, context)}}
        return {"Strategy": strategy, **configuration, "TrainingJobEarlyStoppingType": "Off"}
    if strategy == "Grid":
        _check_grid(task, search, context)
    early = asked.early_stopping or ("Auto" if pruner == "median" else "Off")
    return {"Strategy": strategy, "TrainingJobEarlyStoppingType": early}


def _followed(search: Search) -> str:
    if search.pruner.get("kind") == "hyperband":
        return "Hyperband"
    return "Random" if search.sampler.get("kind") == "random" else "Bayesian"


def _resources(task: Task, search: Search, context: Compiling) -> dict[str, int]:
    """Epochs that a trial gets at least and at most."""
    of_pruner = search.pruner if search.pruner.get("kind") == "hyperband" else {}
    opened = {path for path, _ in context.opened(task)}
    epochs = None if "trial.epochs" in opened else search.trial.get("epochs")
    least, most = of_pruner.get("smallest") or 1, of_pruner.get("largest") or epochs
    if not isinstance(most, int) or not isinstance(least, int):
        raise UnsupportedError(
            f"{task.name}.pruner.largest: the strategy Hyperband must know the epochs of a whole trial: give "
            f"{task.name}.pruner.kind=hyperband and pruner.largest=EPOCHS, {_INSTEAD}"
        )
    if least >= most:
        raise UnsupportedError(
            f"{task.name}.pruner.smallest={least}: a whole trial has {most} epochs, and the strategy Hyperband ends "
            f"trials between the two: lower it, or give more epochs, {_INSTEAD}"
        )
    return {"MinResource": least, "MaxResource": most}


def _check_grid(task: Task, search: Search, context: Compiling) -> None:
    sizes = []
    for name, values in sorted(search.space.items()):
        if not isinstance(values, Choices):
            raise UnsupportedError(
                f"{task.name}.space.{name}: target.tuning.strategy=Grid takes kind=categorical only, given "
                f"kind={values.kind}: list its values"
            )
        sizes.append(len(values.choices))
    if any(path == "trials" for path, _ in context.opened(task)):
        raise UnsupportedError(f"runtime: {task.name}.trials can't stay open with target.tuning.strategy=Grid")
    if search.trials != math.prod(sizes):
        raise UnsupportedError(
            f"{task.name}.trials={search.trials}: the grid has {math.prod(sizes)} points, and "
            f"target.tuning.strategy=Grid tries each: give {task.name}.trials={math.prod(sizes)}"
        )


def _check_details(task: Task, search: Search, context: Compiling) -> None:
    schema = context.component(task).parameters
    honoured = {"hyperband": {"smallest", "largest"}}
    for group, values in (("sampler", search.sampler), ("pruner", search.pruner)):
        kind = str(values.get("kind", ""))
        for name, default in _defaults(schema, kind):
            if name in honoured.get(kind, ()) or values.get(name, default) == default:
                continue
            raise UnsupportedError(
                f"{task.name}.{group}.{name}={values[name]}: SageMaker's tuning has no setting for it: leave the "
                f"default ({default}), {_INSTEAD}"
            )


def _defaults(schema: Mapping[str, Any], kind: str) -> Iterator[tuple[str, JsonValue]]:
    """Defaults of the fields beside `kind`, of the group of that kind."""
    for group in schema.get("$defs", {}).values():
        fields = group.get("properties", {})
        if fields.get("kind", {}).get("const") == kind:
            yield from ((name, field.get("default")) for name, field in fields.items() if name != "kind")
