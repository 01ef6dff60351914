"""Endpoints of SageMaker: look, ask, update, go back, delete.

Nothing is remembered here but in tags of the endpoint: which configuration has passed its checks, and which one had
before. Each change looks first, so that nothing is changed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from millrace.errors import ConfigError, TaskFailedError
from millrace.runtime.sagemaker.missing import is_missing

__all__ = [
    "Clients",
    "Described",
    "Invocations",
    "accept",
    "clients",
    "delete_config",
    "delete_endpoint",
    "deploy_config",
    "describe",
    "earlier",
    "set_weights",
    "wait",
]

Clients = Callable[[str], Any]
"""A boto3 client of a service, by its name."""

ACCEPTED, PREVIOUS = "millrace:accepted", "millrace:previous"
_GOING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_POOL = 16
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Described:
    """An endpoint as it is now."""

    name: str
    arn: str
    status: str
    config: str
    """The configuration that it serves."""
    reason: str = ""
    """Why it failed, or why the last change was taken back."""
    variants: tuple[Mapping[str, Any], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether nothing is under way."""
        return self.status not in _GOING

    @property
    def accepted(self) -> str:
        """The configuration that last passed its checks; empty where none has."""
        return self.tags.get(ACCEPTED, "")

    @property
    def previous(self) -> str:
        """The one that had passed them before that."""
        return self.tags.get(PREVIOUS, "")


def clients(region: str) -> Clients:
    """Clients of a region, with the credentials of where this runs.

    Raises:
        ConfigError: When boto3 is missing.
    """
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise ConfigError(f"SageMaker needs the package {error.name!r}: pip install -e '.[sagemaker]'") from error
    config = Config(retries={"mode": "adaptive", "total_max_attempts": 6}, max_pool_connections=_POOL)
    session = boto3.Session(region_name=region)
    made: dict[str, Any] = {}

    def client(name: str) -> Any:
        if name not in made:
            create: Any = session.client
            made[name] = create(name, config=config)
        return made[name]

    return client


def describe(ask: Clients, name: str) -> Described | None:
    """An endpoint; None when there is none of that name."""
    from botocore.exceptions import ClientError

    client = ask("sagemaker")
    try:
        told = client.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    tags = client.list_tags(ResourceArn=told["EndpointArn"])["Tags"]
    return Described(
        name=name,
        arn=told["EndpointArn"],
        status=told["EndpointStatus"],
        config=told["EndpointConfigName"],
        reason=told.get("FailureReason", ""),
        variants=tuple(told.get("ProductionVariants") or ()),
        tags={tag["Key"]: tag["Value"] for tag in tags},
    )


def wait(
    ask: Clients, name: str, seconds: float, poll: float, told: Callable[[str], None] = lambda status: None
) -> Described:
    """The endpoint, once nothing is under way.

    Args:
        ask: Clients.
        name: Of the endpoint.
        seconds: How long to wait.
        poll: Seconds between two looks.
        told: Called with each new status.

    Raises:
        TaskFailedError: When it is not there, fails or takes too long.
    """
    deadline = time.monotonic() + seconds
    status = ""
    while True:
        now = describe(ask, name)
        if now is None:
            raise TaskFailedError(f"there is no endpoint {name!r}")
        if now.status != status:
            status = now.status
            told(status)
        if now.status == "InService":
            return now
        if now.settled:
            raise TaskFailedError(f"the endpoint {name!r} is {now.status}: {now.reason or 'no reason is given'}")
        if time.monotonic() > deadline:
            raise TaskFailedError(f"the endpoint {name!r} is still {now.status} after {seconds:g} s")
        time.sleep(poll)


def deploy_config(
    ask: Clients,
    name: str,
    config: str,
    deployment: Mapping[str, Any] | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    keep_counts: bool = False,
) -> bool:
    """Create an endpoint, or let it serve another configuration, without a gap in its service.

    Args:
        ask: Clients.
        name: Of the endpoint.
        config: Name of the configuration, which is there.
        deployment: How the new machines take over; None leaves it to the service.
        tags: Of an endpoint that is created.
        keep_counts: As many machines as there are now, instead of the configuration's: for scaled endpoints.

    Returns:
        Whether anything was to be done.

    Raises:
        TaskFailedError: When another change is under way.
    """
    client, now = ask("sagemaker"), describe(ask, name)
    how: dict[str, Any] = {"DeploymentConfig": dict(deployment)} if deployment else {}
    if now is None:
        made = [{"Key": key, "Value": value} for key, value in sorted((tags or {}).items())]
        client.create_endpoint(EndpointName=name, EndpointConfigName=config, **how, **({"Tags": made} if made else {}))
        return True
    if not now.settled:
        if now.config == config:
            return False
        raise TaskFailedError(f"the endpoint {name!r} is {now.status}: wait until that is done, and try again")
    if now.config == config and now.status == "InService":
        return False
    if keep_counts:
        others = [{"VariantPropertyType": kind} for kind in ("DesiredWeight", "DataCaptureConfig")]
        how |= {"RetainAllVariantProperties": True, "ExcludeRetainedVariantProperties": others}
    client.update_endpoint(EndpointName=name, EndpointConfigName=config, **how)
    return True


def accept(ask: Clients, now: Described, *, forget: bool = False) -> bool:
    """Write down that the present configuration is a good one; whether that is new.

    Args:
        ask: Clients.
        now: The endpoint.
        forget: Leave nothing to go back to, after a rollback: a second one changes nothing.
    """
    client = ask("sagemaker")
    if forget and now.previous:
        client.delete_tags(ResourceArn=now.arn, TagKeys=[PREVIOUS])
    if now.accepted == now.config:
        return forget and bool(now.previous)
    tags = {ACCEPTED: now.config} | ({PREVIOUS: now.accepted} if now.accepted and not forget else {})
    client.add_tags(ResourceArn=now.arn, Tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())])
    return True


def earlier(ask: Clients, now: Described) -> str:
    """The configuration to go back to: the last accepted one, or the one before; empty when none is left."""
    from botocore.exceptions import ClientError

    for config in (now.accepted, now.previous):
        if not config or config == now.config:
            continue
        try:
            ask("sagemaker").describe_endpoint_config(EndpointConfigName=config)
        except ClientError as error:
            if is_missing(error):
                continue
            raise
        return config
    return ""


def set_weights(ask: Clients, now: Described, weights: Mapping[str, float]) -> bool:
    """Divide requests otherwise among the variants; whether anything was to be done.

    Raises:
        ConfigError: For an unknown variant, or when none would get requests.
    """
    present = {str(one["VariantName"]): float(one.get("CurrentWeight", 0)) for one in now.variants}
    for name in weights:
        if name not in present:
            raise ConfigError(
                f"endpoint.weights.{name}: the endpoint {now.name!r} has no such variant, but {', '.join(present)}"
            )
    if not any({**present, **weights}.values()):
        raise ConfigError("endpoint.weights: no variant would get any requests: give one of them a weight")
    changed = {name: value for name, value in weights.items() if abs(present[name] - value) > _TOLERANCE}
    if not changed:
        return False
    wanted = [{"VariantName": name, "DesiredWeight": value} for name, value in sorted(changed.items())]
    ask("sagemaker").update_endpoint_weights_and_capacities(EndpointName=now.name, DesiredWeightsAndCapacities=wanted)
    return True


def delete_endpoint(ask: Clients, name: str) -> bool:
    """Delete an endpoint; whether there was one."""
    now = describe(ask, name)
    if now is None:
        return False
    if now.status != "Deleting":
        ask("sagemaker").delete_endpoint(EndpointName=name)
    return True


def delete_config(ask: Clients, name: str) -> bool:
    """Delete an endpoint configuration; whether there was one."""
    from botocore.exceptions import ClientError

    client = ask("sagemaker")
    try:
        client.describe_endpoint_config(EndpointConfigName=name)
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    client.delete_endpoint_config(EndpointConfigName=name)
    return True


class Invocations(httpx.BaseTransport):
    """Carries requests to `/invocations` by InvokeEndpoint, so that an endpoint is asked as any other server."""

    def __init__(self, ask: Clients, name: str, variant: str = "") -> None:
        self._client = ask("sagemaker-runtime")
        self._to = {"EndpointName": name, **({"TargetVariant": variant} if variant else {})}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Ask, and answer with what the container said."""
        from botocore.exceptions import BotoCoreError, ClientError

        request.read()
        try:
            told = self._client.invoke_endpoint(
                **self._to,
                Body=request.content,
                ContentType=request.headers.get("content-type", "application/json"),
                Accept="application/json",
            )
        except ClientError as error:
            said = error.response
            status = said.get("OriginalStatusCode") or said.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            text = said.get("OriginalMessage") or said.get("Error", {}).get("Message", str(error))
            return httpx.Response(int(status), text=str(text), request=request)
        except BotoCoreError as error:
            raise httpx.TransportError(f"InvokeEndpoint: {error}", request=request) from error
        return httpx.Response(
            200, content=told["Body"].read(), headers={"Content-Type": told.get("ContentType", "")}, request=request
        )
