"""What an endpoint of SageMaker can't do, or would ignore, in the words of the deploy component."""

from __future__ import annotations

import re

from millrace.components.deploy.spec import Canary, DeployParameters, Scaling
from millrace.errors import ConfigError, UnsupportedError
from millrace.runtime.sagemaker.scaling import Wanted, wanted_scaling
from millrace.targets.sagemaker import EndpointWork

__all__ = ["check", "scaling"]

_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"
_LONGEST_NAME = 50  # the configuration's name has the execution's id beside it, and 63 characters
_LONGEST_ANSWER = 60
_LONGEST_START = 3600
_LARGEST_BODY = 25


def check(parameters: DeployParameters, work: EndpointWork) -> None:
    """Refuse what SageMaker can't do.

    Raises:
        ConfigError: For a name that can't be an endpoint's.
        UnsupportedError: Naming the parameter, why, and what to do.
    """
    name = parameters.name
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"name={name!r} can't be an endpoint's: letters, digits and dashes between them, at most {_LONGEST_NAME}"
        )
    for field in ("host", "port"):
        if getattr(parameters, field) != DeployParameters.model_fields[field].default:
            raise UnsupportedError(f"{field}={getattr(parameters, field)}: SageMaker chooses it; leave it out here")
    if parameters.timeout_seconds > _LONGEST_ANSWER:
        raise UnsupportedError(
            f"timeout_seconds={parameters.timeout_seconds:g}: SageMaker waits {_LONGEST_ANSWER} seconds for an answer"
        )
    if parameters.max_body_mib > _LARGEST_BODY:
        raise UnsupportedError(
            f"max_body_mib={parameters.max_body_mib:g}: an endpoint of SageMaker takes {_LARGEST_BODY} MiB at most"
        )
    if parameters.startup_timeout_seconds > _LONGEST_START:
        raise UnsupportedError(
            f"startup_timeout_seconds={parameters.startup_timeout_seconds:g}: SageMaker waits {_LONGEST_START} seconds "
            "at most"
        )
    if parameters.canary is not None:
        _check_canary(parameters.canary)
    scaling(parameters, work)


def scaling(parameters: DeployParameters, work: EndpointWork) -> Wanted | None:
    """How the endpoint shall be scaled; None for a fixed number of machines.

    Raises:
        UnsupportedError: Naming the parameter.
    """
    given = parameters.scaling or Scaling()
    if parameters.scaling is None:
        for field in ("custom_metric", "scheduled"):
            if getattr(work, field):
                raise UnsupportedError(
                    f"scaling: target.serving.{field} is given, but not how many machines there may be: "
                    "set scaling.min_replicas and scaling.max_replicas"
                )
    return wanted_scaling(given.min_replicas, given.max_replicas, given.metric, given.target, work)


def _check_canary(canary: Canary) -> None:
    if not 1 <= canary.percent <= 50:
        raise UnsupportedError(
            f"canary.percent={canary.percent}: SageMaker's canary has 1 to 50 percent of the machines"
        )
    if not canary.promote:
        raise UnsupportedError(
            "canary.promote=false: SageMaker's canary gets all requests or is rolled back; to keep two models side by "
            "side give weights, target.serving.variants"
        )
