"""Deploy a model where it shall answer: on this machine, or on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from millrace.components.deploy.local import deploy_here
from millrace.components.deploy.rollout import deploy_on_cluster
from millrace.components.deploy.sagemaker import check_endpoint
from millrace.components.deploy.spec import DeployInputs, DeployOutputs, DeployParameters
from millrace.runtime.context import Context, Result
from millrace.runtime.models import check_fits
from millrace.runtime.schemas import ModelCard, read_json_model, read_records_schema

__all__ = ["main"]

_PLACES: Mapping[str, Callable[[DeployParameters, DeployInputs, DeployOutputs, Context], Result]] = {
    "": deploy_here,
    "inferenceservice": deploy_on_cluster,
    "endpoint": check_endpoint,
}


def main(parameters: DeployParameters, inputs: DeployInputs, outputs: DeployOutputs, context: Context) -> Result:
    """Start or update an endpoint, and compare its answers with the model's own.

    Raises:
        DataError: When the records do not fit the model.
        UserError: For what the place can't do.
        TaskFailedError: When the endpoint does not come up, or answers otherwise than the model.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs each of thousands of requests
    card = read_json_model(inputs.model.path / "model.json", ModelCard)
    check_fits("the model", card, read_records_schema(inputs.records.path))
    kind = "endpoint" if context.endpoint is not None else context.cluster.kind if context.cluster is not None else ""
    place = _PLACES[kind]
    return place(parameters, inputs, outputs, context)
