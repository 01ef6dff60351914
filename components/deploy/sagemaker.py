"""Check and scale an endpoint of SageMaker that the pipeline has just made or updated, or roll it back.

Nothing is remembered here. Tags of the endpoint tell which configuration passed its checks, so that a task that is
killed goes on when it runs again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from millrace.components.deploy.asking import SAGEMAKER, Address, accuracy
from millrace.components.deploy.checks import Questions, ask, channel_with_records, read_questions
from millrace.components.deploy.sagemaker_limits import check, scaling
from millrace.components.deploy.spec import DeployInputs, DeployOutputs, DeployParameters
from millrace.errors import MillraceError, TaskFailedError
from millrace.runtime.context import Context, Result
from millrace.runtime.sagemaker.endpoints import (
    Clients,
    Described,
    Invocations,
    accept,
    clients,
    deploy_config,
    describe,
    earlier,
    wait,
)
from millrace.runtime.sagemaker.scaling import scale, unscale
from millrace.targets.sagemaker import EndpointWork

__all__ = ["check_endpoint"]

_POLL_SECONDS = 10
_LONGEST_ROLLBACK = 1800
_LARGEST_QUESTION_MIB = 5.0
"""Requests larger than 6 MB are refused by endpoints in some regions."""
ACCURACY = "millrace:accuracy"
"""Tag of an endpoint: how often the accepted model was right about the records that it was asked with."""


def check_endpoint(
    parameters: DeployParameters, inputs: DeployInputs, outputs: DeployOutputs, context: Context
) -> Result:
    """Ask the endpoint, and set how it is scaled.

    Raises:
        UserError: For what SageMaker can't do.
        TaskFailedError: When it does not come up or answers wrongly; the configuration before serves again.
    """
    if context.endpoint is None:
        raise MillraceError("there is no endpoint in this task")
    # fields that were left open have their values only now
    work = context.endpoint.model_copy(update={"name": parameters.name})
    check(parameters, work)
    reach = clients(work.region)
    now = _arrived(reach, parameters, work, context)
    if now.config != work.config:
        raise TaskFailedError(
            f"the endpoint {work.name!r} serves the configuration {now.config!r}, not {work.config!r}: it was changed "
            f"or rolled back since. {now.reason}".rstrip()
        )
    channel = channel_with_records(inputs.records.path)
    questions = read_questions(inputs.model.path, inputs.records.path, channel, parameters.check_records)
    try:
        metrics = _judged(reach, now, questions, parameters, work, context)
    except (TaskFailedError, httpx.HTTPError) as error:
        raise TaskFailedError(f"{error}\n{_go_back(reach, now, context)}") from error
    _note_accepted(reach, now, metrics)
    _scale(reach, parameters, work, context)
    facts = _facts(work, now)
    (outputs.endpoint.path / "endpoint.json").write_text(json.dumps(facts, indent=2) + "\n")
    return Result(metrics=metrics, metadata={"endpoint": {"url": facts["url"], "running": True}})


def _arrived(reach: Clients, parameters: DeployParameters, work: EndpointWork, context: Context) -> Described:
    """The endpoint, once no change is under way.

    Raises:
        TaskFailedError: When it does not come up; where possible the configuration before serves again.
    """
    seconds = parameters.startup_timeout_seconds + work.rollout_seconds
    try:
        return wait(reach, work.name, seconds, _POLL_SECONDS, _teller(work.name, context))
    except TaskFailedError as error:
        now = describe(reach, work.name)
        if now is None:
            raise
        # while it changes, and after it failed to, the service may still tell the configuration before
        told = _go_back(reach, replace(now, config=work.config), context)
        raise TaskFailedError(f"{error}\n{told}") from error


def _teller(name: str, context: Context) -> Any:
    return lambda status: context.log.info("endpoint %r is %s", name, status)


def _judged(
    reach: Clients,
    now: Described,
    questions: Questions,
    parameters: DeployParameters,
    work: EndpointWork,
    context: Context,
) -> dict[str, float]:
    """The endpoint's metrics.

    Raises:
        httpx.HTTPError: When a request fails or is refused.
        TaskFailedError: When the answers differ from the model's own, or a limit of the canary is not kept.
    """
    transport = Invocations(reach, work.name, work.variant if len(now.variants) > 1 else "")
    address = Address("http://endpoint", parameters.name, protocols=SAGEMAKER, transport=transport)
    limits = parameters.model_copy(update={"max_body_mib": min(parameters.max_body_mib, _LARGEST_QUESTION_MIB)})
    context.log.info("asking endpoint %r with %d records", work.name, len(questions.examples))
    metrics = ask(address, questions, limits)
    canary = parameters.canary
    metrics["accuracy"] = accuracy(address, questions.examples, questions.labels, questions.classes, limits)
    if canary is None:
        return metrics
    if canary.max_latency_ms is not None and metrics["latency_ms"] > canary.max_latency_ms:
        raise TaskFailedError(
            f"the new model takes {metrics['latency_ms']:.3g} ms for a request, allowed: "
            f"{canary.max_latency_ms:g} (canary.max_latency_ms)"
        )
    if canary.max_accuracy_drop is not None and ACCURACY in now.tags and now.accepted != now.config:
        before = float(now.tags[ACCURACY])
        metrics["accuracy_before"] = before
        if metrics["accuracy"] < before - canary.max_accuracy_drop:
            raise TaskFailedError(
                f"the new model is right about {metrics['accuracy']:.3f} of the records, the one before was about "
                f"{before:.3f}; allowed is a drop of {canary.max_accuracy_drop:g} (canary.max_accuracy_drop)"
            )
    return metrics


def _go_back(reach: Clients, now: Described, context: Context) -> str:
    """Bring back the configuration that passed its checks last, and say so."""
    from botocore.exceptions import ClientError

    if now.accepted == now.config:
        return "this configuration passed its checks before: the endpoint stays as it is"
    before = earlier(reach, now)
    if not before:
        return "there is no earlier configuration to go back to: the endpoint stays as it is"
    context.log.warning("going back to the configuration %r", before)
    try:
        deploy_config(reach, now.name, before, keep_counts=True)
        wait(reach, now.name, _LONGEST_ROLLBACK, _POLL_SECONDS, _teller(now.name, context))
    except (TaskFailedError, ClientError) as error:
        return f"the earlier configuration {before!r} shall serve again, but: {error}"
    return f"the earlier configuration {before!r} serves again"


def _note_accepted(reach: Clients, now: Described, metrics: Mapping[str, float]) -> None:
    told = f"{metrics['accuracy']:.6f}"
    if now.tags.get(ACCURACY) != told:
        reach("sagemaker").add_tags(ResourceArn=now.arn, Tags=[{"Key": ACCURACY, "Value": told}])
    accept(reach, now)


def _scale(reach: Clients, parameters: DeployParameters, work: EndpointWork, context: Context) -> None:
    client, wanted = reach("application-autoscaling"), scaling(parameters, work)
    if wanted is None:
        changes = unscale(client, work.name, work.variant)
    else:
        changes = scale(client, work.name, work.variant, wanted)
    for change in changes:
        context.log.info("scaling of endpoint %r: %s", work.name, change)


def _facts(work: EndpointWork, now: Described) -> dict[str, Any]:
    """What `endpoint.json` says."""
    suffix = ".cn" if work.region.startswith("cn-") else ""
    return {
        "url": f"https://runtime.sagemaker.{work.region}.amazonaws.com{suffix}/endpoints/{work.name}/invocations",
        "name": work.name,
        "platform": "sagemaker",
        "region": work.region,
        "config": now.config,
        "previous": now.accepted if now.accepted != now.config else now.previous,
        "variant": work.variant,
    }
