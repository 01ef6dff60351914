"""What a step of ours writes into its metrics file, as its component declares it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from millrace.compilers.sagemaker.view import StepView, is_ours, pick, sequence
from millrace.errors import MillraceError
from millrace.registry import components, load_component

__all__ = ["metrics_of"]


def metrics_of(step: StepView, file: Any) -> Sequence[str] | None:
    """Names of the numbers in a property file; None where nothing is known of it.

    Nothing is imported but components that are registered, or that are imported already: a definition of
    somebody else's may name anything.
    """
    specification = pick(step.arguments, "AppSpecification")
    arguments = sequence(pick(specification, "ContainerArguments"))
    named = isinstance(file, Mapping) and (file.get("OutputName"), file.get("FilePath")) == ("metrics", "metrics.json")
    if not named or not is_ours(step) or not arguments or not isinstance(arguments[0], str):
        return None
    return _declared(arguments[0])


def _declared(entry: str) -> Sequence[str] | None:
    if entry.partition(":")[0] not in sys.modules and entry not in _registered():
        return None
    try:
        spec = load_component(entry).spec
    except MillraceError:
        return None
    return [metric.name for metric in spec.metrics]


@lru_cache(maxsize=1)
def _registered() -> frozenset[str]:
    return frozenset(components().values())
