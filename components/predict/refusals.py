"""What a batch transform job of SageMaker can't do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from millrace.components.predict.spec import PredictParameters
from millrace.errors import UnsupportedError
from millrace.targets.sagemaker import Transform

__all__ = ["refuse"]


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: Transform) -> None:
    """Refuse what a transform job would ignore.

    Raises:
        UnsupportedError: Naming the parameter, why, and what to do.
    """
    given = PredictParameters.model_validate(parameters)
    if given.max_error_rate > 0:
        raise UnsupportedError(
            f"max_error_rate={given.max_error_rate:g}: a transform job ends at the first object that is no picture: "
            "use 0, or ask in the step's own machine (target.transform.kind=task)"
        )
