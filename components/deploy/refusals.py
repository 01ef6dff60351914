"""What the places that serve a model refuse, while a document is compiled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from millrace.components.deploy import kserve, sagemaker_limits
from millrace.components.deploy.spec import DeployParameters
from millrace.targets.kubeflow import ClusterWork
from millrace.targets.sagemaker import EndpointWork

__all__ = ["refuse"]


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: ClusterWork | EndpointWork) -> None:
    """Refuse what KServe or SageMaker can't do or would ignore.

    Raises:
        UserError: Naming the parameter, why, and what to do.
    """
    given = DeployParameters.model_validate(parameters)
    if isinstance(work, EndpointWork):
        sagemaker_limits.check(given, work)
    else:
        kserve.check(given, work)
