"""What trials could not start with, and what Katib has no counterpart for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import Any

from pydantic import JsonValue

from millrace.components.tune.space import Choices, extremes
from millrace.components.tune.spec import Hyperband, TpeSampler, TuneParameters
from millrace.components.tune.trials import base_parameters
from millrace.errors import UnsupportedError, UserError
from millrace.registry import load_component
from millrace.specs import Distribution
from millrace.specs.dotted import merged
from millrace.targets.kubeflow import ClusterWork

__all__ = ["check", "check_trials", "refuse"]

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+ -]+")
"""Texts that can be put into the template of a trial, which Katib takes as text."""
_MOST_TRIALS_TOLD = 20
"""Hyperopt's trials at random before TPE begins; Katib has no setting for it."""


def check(parameters: TuneParameters, *, warm_start: bool) -> None:
    """Refuse what Katib has no counterpart for.

    Args:
        parameters: The search.
        warm_start: Whether earlier studies are given.

    Raises:
        UnsupportedError: Naming the parameter, why, and what to do.
    """
    instead = "or search in the step's own pod (target.tuning.kind=task)"
    if warm_start:
        raise UnsupportedError(f"warm_start: Katib can't learn from earlier studies; leave it out, {instead}")
    if isinstance(parameters.pruner, Hyperband):
        raise UnsupportedError(
            "pruner.kind=hyperband: Katib's hyperband chooses the epochs of trials instead of ending them; "
            f"use pruner.kind=median or none, {instead}"
        )
    sampler = parameters.sampler
    if isinstance(sampler, TpeSampler) and not sampler.multivariate:
        default = TpeSampler().startup_trials
        if sampler.startup_trials != default:
            raise UnsupportedError(
                f"sampler.startup_trials={sampler.startup_trials}: Katib's tpe always has {_MOST_TRIALS_TOLD}; "
                f"use sampler.multivariate=true, {instead}"
            )
    hyperopt = not isinstance(sampler, TpeSampler) or not sampler.multivariate
    for name, item in parameters.space.items():
        if isinstance(item, Choices):
            _check_choices(name, item.choices, instead)
        elif hyperopt and item.step is not None and not math.isclose(item.low / item.step, round(item.low / item.step)):
            raise UnsupportedError(
                f"space.{name}: Katib's {sampler.kind} chooses multiples of step={item.step:g}, and low={item.low:g} "
                f"is none; use sampler.kind=tpe with multivariate=true, {instead}"
            )


def _check_choices(name: str, choices: Iterable[JsonValue], instead: str) -> None:
    kinds = set()
    for choice in choices:
        plain = isinstance(choice, int | float) or (isinstance(choice, str) and _PLAIN.fullmatch(choice))
        if not plain:
            raise UnsupportedError(
                f"space.{name}: {json.dumps(choice)} can't be a choice in Katib: numbers, true and false, and texts of "
                f"letters, digits, blanks and _.:/@+- can; search the fields of a group one by one, {instead}"
            )
        kinds.add(isinstance(choice, str))
    if len(kinds) > 1:
        raise UnsupportedError(f"space.{name}: texts and numbers can't be choices together in Katib; {instead}")


def check_trials(parameters: TuneParameters) -> None:
    """Refuse what the first trial would fail for: an objective that nobody reports, values that it can't train with.

    Raises:
        UserError: Naming the parameter, the value and what is allowed.
    """
    base = base_parameters(parameters)
    refuses = load_component(parameters.component).spec.refuses
    if refuses is None:
        return
    module, _, function = refuses.partition(":")
    ends = [(name, value) for name, values in parameters.space.items() for value in extremes(values)]
    for told, chosen in (("trial.", base), *((f"space: {n}={v!r}: ", merged(base, {n: v})) for n, v in ends)):
        try:
            getattr(import_module(module), function)(chosen, ("records",), Distribution())
        except UserError as error:
            raise type(error)(f"{told}{error} (each trial trains with one rank)") from error


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: ClusterWork | Distribution) -> None:
    """The same before anything runs: as a task of this machine, or while compiling for Katib.

    Raises:
        UserError: As `check_trials` and `check` do.
    """
    chosen = TuneParameters.model_validate(parameters)
    if isinstance(work, Distribution):
        check_trials(chosen)
    else:
        check(chosen, warm_start="warm_start" in inputs)
