"""What several ranks can't train together, and models that can't be reused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from millrace.components.bert.spec import BertParameters
from millrace.specs import Distribution
from millrace.targets.kubeflow import ClusterWork
from millrace.training import refusals

__all__ = ["refuse"]


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: ClusterWork | Distribution) -> None:
    """Refuse while compiling what training would refuse later.

    Raises:
        UserError: As training does.
    """
    told = BertParameters.model_validate(parameters).training(base="base" in inputs)
    refusals.refuse(told.model_dump(mode="json"), inputs, work)
