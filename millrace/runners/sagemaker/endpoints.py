"""Models, registered versions and endpoints: known to moto as to the service, answered by containers of this machine.

What an endpoint consists of is always asked of moto: when a container changes it through the API, the next request
finds the servers of the new configuration.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.servers import Server, open_server

__all__ = ["Hosting", "NoSuchEndpointError", "open_hosting", "sagemaker_client"]

Named = tuple[str, dict[str, Any]]
"""A name and the description of what has it."""


class NoSuchEndpointError(Exception):
    """Nobody has made such an endpoint, or it was deleted."""


@dataclass
class _Serving:
    """The servers of an endpoint's configuration."""

    config: str
    weights: Mapping[str, float]
    """As the configuration has them."""
    servers: Mapping[str, Server]
    """By variant."""
    stack: ExitStack
    turn: Iterator[int] = field(default_factory=count)


@dataclass
class Hosting:
    """What a rehearsal serves; made by `open_hosting`."""

    place: Place
    client: Any
    """A boto3 client of SageMaker's API."""
    front: str = ""
    """Where SageMaker Runtime's requests are answered."""
    _serving: dict[str, _Serving] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: Iterator[int] = field(default_factory=count)

    def create_model(self, name: str, arguments: Mapping[str, Any]) -> Named:
        """Make a model; its name is the given one, or that of the arguments."""
        given = {"ModelName": name, **arguments}
        with _asked("CreateModel"):
            self.client.create_model(**given)
            return given["ModelName"], _described(self.client.describe_model(ModelName=given["ModelName"]))

    def register_model(self, name: str, arguments: Mapping[str, Any]) -> Named:
        """Register a version of a model, in a group that is made when it is not there."""
        group = arguments.get("ModelPackageGroupName")
        with _asked("CreateModelPackage"):
            known = self.client.list_model_package_groups()["ModelPackageGroupSummaryList"] if group else []
            if group and group not in [item["ModelPackageGroupName"] for item in known]:
                self.client.create_model_package_group(ModelPackageGroupName=group)
            given = arguments if group else {"ModelPackageName": name, **arguments}
            arn = self.client.create_model_package(**given)["ModelPackageArn"]
            return arn, _described(self.client.describe_model_package(ModelPackageName=arn))

    def create_config(self, name: str, arguments: Mapping[str, Any]) -> Named:
        """Make an endpoint configuration."""
        given = {"EndpointConfigName": name, **arguments}
        with _asked("CreateEndpointConfig"):
            self.client.create_endpoint_config(**given)
            found = self.client.describe_endpoint_config(EndpointConfigName=given["EndpointConfigName"])
        return given["EndpointConfigName"], _described(found)

    def create_endpoint(self, name: str, arguments: Mapping[str, Any]) -> Named:
        """Make an endpoint, or give one that is there another configuration, and start its containers."""
        given = {"EndpointName": name, **arguments}
        name = given["EndpointName"]
        with _asked("CreateEndpoint"):
            known = [item["EndpointName"] for item in self.client.list_endpoints(NameContains=name)["Endpoints"]]
            if name in known:
                taken = ("EndpointName", "EndpointConfigName", "DeploymentConfig")
                self.client.update_endpoint(**{key: given[key] for key in taken if key in given})
            else:
                self.client.create_endpoint(**given)
        return name, _described(self._of(name)[1])

    def describe(self, name: str) -> dict[str, Any]:
        """What the API says about an endpoint.

        Raises:
            NoSuchEndpointError: When there is none.
        """
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = self.client.describe_endpoint(EndpointName=name)
        except ClientError:
            raise NoSuchEndpointError(name) from None
        return found

    def container(self, model: str) -> dict[str, Any]:
        """The container definition of a model; that of its registered version where it names one."""
        with _asked("DescribeModel"):
            found = self.client.describe_model(ModelName=model)
            container = found.get("PrimaryContainer") or (found.get("Containers") or [{}])[0]
            if package := container.get("ModelPackageName"):
                specification = self.client.describe_model_package(ModelPackageName=package)["InferenceSpecification"]
                container = {**specification["Containers"][0], "Environment": _environment(specification, container)}
        if found.get("EnableNetworkIsolation"):
            return {**container, "EnableNetworkIsolation": True}
        return dict(container)

    def address(self, name: str) -> str:
        """Where an endpoint takes requests, from this machine."""
        return f"{self.front}/endpoints/{name}/invocations"

    def logs(self, name: str) -> list[Path]:
        """Logs of an endpoint's containers."""
        serving = self._serving.get(name)
        return [log for server in serving.servers.values() for log in server.logs] if serving else []

    def choose(self, name: str, variant: str = "") -> tuple[str, str]:
        """The variant that answers the next request, by the weights, and the URL of one of its instances.

        Raises:
            NoSuchEndpointError: When there is no such endpoint.
            ValueError: When it has no such variant, or none that takes requests.
            TaskFailedError: When its containers don't start.
        """
        serving, described = self._of(name)
        if not variant:
            now = {item["VariantName"]: item.get("CurrentWeight") for item in described["ProductionVariants"]}
            given = [now.get(key) for key in serving.weights]
            weights = [
                weight if now is None else now for weight, now in zip(serving.weights.values(), given, strict=True)
            ]
            if not any(weights):
                raise ValueError(f"no variant of {name} has a weight above 0")
            variant = random.choices(list(serving.weights), weights)[0]
        if variant not in serving.servers:
            raise ValueError(f"{name} has no variant {variant!r}; it has {', '.join(serving.servers)}")
        urls = serving.servers[variant].urls
        return variant, urls[next(serving.turn) % len(urls)]

    def _of(self, name: str) -> tuple[_Serving, dict[str, Any]]:
        """The servers of what an endpoint consists of now, and what the API says about it."""
        with self._lock:
            try:
                described = self.describe(name)
            except NoSuchEndpointError:
                self._end(name)
                raise
            config = str(described["EndpointConfigName"])
            if name not in self._serving or self._serving[name].config != config:
                fresh = self._start(name, config)
                self._end(name)
                self._serving[name] = fresh
            return self._serving[name], described

    def _start(self, name: str, config: str) -> _Serving:
        with _asked("DescribeEndpointConfig"):
            variants = self.client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
        servers: dict[str, Server] = {}
        with ExitStack() as stack:
            for variant in variants:
                container = self.container(variant["ModelName"])
                isolated = bool(container.pop("EnableNetworkIsolation", False))
                label = f"{name}-{variant['VariantName']}-{next(self._numbers)}"
                instances = int(variant.get("InitialInstanceCount", 1))
                server = open_server(self.place, label, container, instances, isolated=isolated)
                servers[variant["VariantName"]] = stack.enter_context(server)
            weights = {item["VariantName"]: float(item.get("InitialVariantWeight", 1)) for item in variants}
            return _Serving(config, weights, servers, stack.pop_all())

    def _end(self, name: str) -> None:
        if serving := self._serving.pop(name, None):
            serving.stack.close()

    def close(self) -> None:
        """End all containers."""
        with self._lock:
            for name in list(self._serving):
                self._end(name)


@contextmanager
def open_hosting(place: Place, client: Any) -> Iterator[Hosting]:
    """Hosting as long as this context lives."""
    hosting = Hosting(place, client)
    try:
        yield hosting
    finally:
        hosting.close()


def sagemaker_client(endpoint: str, region: str) -> Any:
    """A client of a moto server, which learns to change endpoints."""
    import boto3
    from moto.sagemaker.responses import SageMakerResponse

    answers: Any = SageMakerResponse
    if not hasattr(answers, "update_endpoint"):
        answers.update_endpoint = _update_endpoint
    return boto3.client(
        "sagemaker",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="rehearsal",
        aws_secret_access_key="rehearsal",  # noqa: S106 - moto asks for none
    )


def _update_endpoint(response: Any) -> Any:
    """The call that moto lacks: another configuration for an endpoint."""
    from moto.core.responses import ActionResult

    backend = response.sagemaker_backend
    name = response._get_param("EndpointName")
    backend.describe_endpoint(name)  # refuses unknown ones
    old = backend.endpoints[name]
    made = backend.create_endpoint(name, response._get_param("EndpointConfigName"), old.tags)
    made.creation_time = old.creation_time
    return ActionResult({"EndpointArn": made.arn})


@contextmanager
def _asked(operation: str) -> Iterator[None]:
    """Refusals of the API as failures of the step."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise TaskFailedError(f"{operation}: {error.response.get('Error', {}).get('Message', error)}") from None
    except BotoCoreError as error:
        raise TaskFailedError(f"{operation}: {' '.join(str(error).split())}") from None


def _described(found: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of the API as properties of a step."""
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in found.items()
        if key != "ResponseMetadata"
    }


def _environment(specification: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    registered = specification["Containers"][0].get("Environment") or {}
    return {**registered, **(container.get("Environment") or {})}
