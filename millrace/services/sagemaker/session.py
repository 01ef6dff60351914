"""Requests to AWS: one region, one set of credentials, one timeout, one message per failure."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from millrace.errors import ConfigError
from millrace.services.sagemaker.failures import ServiceError, explain_answer, explain_transport
from millrace.targets.sagemaker import SageMaker

__all__ = ["Session", "client", "session"]

_SHORTEST_SECRET = 8
"""Shorter ones are those of stand-ins, `x` for one, and parts of many words."""


@dataclass
class Session:
    """Who asks, and where. Nothing is sent before the first call."""

    target: SageMaker
    boto: Any = field(repr=False)
    """A boto3.Session."""
    attempts: int = 6
    """Of each call, while AWS is busy or does not answer; the variable AWS_MAX_ATTEMPTS wins."""
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def region(self) -> str:
        """Where all services are asked."""
        return self.target.region

    @cached_property
    def account(self) -> str:
        """Number of the account that the credentials belong to."""
        return str(self.call("sts", "get_caller_identity")["Account"])

    def client(self, name: str) -> Any:
        """A boto3 client of a service; its errors are botocore's: `call` and `asking` turn them into messages."""
        with self._lock, self.asking(name):
            if name not in self._clients:
                self._clients[name] = self.boto.client(
                    name, region_name=self.region, endpoint_url=self.target.session.endpoint, config=_config(self)
                )
            return self._clients[name]

    def call(self, service: str, method: str, **asked: Any) -> dict[str, Any]:
        """One call: `call("sagemaker", "describe_pipeline", PipelineName="digits")`.

        Raises:
            ServiceError: When AWS can't be reached or refuses.
        """
        with self.asking(service, asked):
            answer: dict[str, Any] = getattr(self.client(service), method)(**asked)
            return answer

    def pages(self, service: str, method: str, key: str, **asked: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, fetched as they are wanted.

        Raises:
            ServiceError: When AWS can't be reached or refuses.
        """
        with self.asking(service, asked):
            for page in self.client(service).get_paginator(method).paginate(**asked):
                yield from page.get(key) or []

    @contextmanager
    def asking(self, service: str, asked: dict[str, Any] | None = None) -> Iterator[None]:
        """Turn botocore's errors into ours.

        Raises:
            ServiceError: With what to do, and without the credentials.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:  # no cause in the traceback: it may hold what was sent
            raise self._without_secrets(explain_answer(error, service, asked or {}, self.target)) from None
        except (BotoCoreError, HTTPClientError) as error:
            raise self._without_secrets(explain_transport(error, service, self.target)) from None

    def _without_secrets(self, error: ServiceError) -> ServiceError:
        # Their attributes, not their properties: those may renew them, which asks AWS again.
        known = vars(getattr(getattr(self.boto, "_session", None), "_credentials", None) or object)
        message = str(error)
        for name in ("secret_key", "_secret_key", "token", "_token"):
            if len(str(known.get(name) or "")) >= _SHORTEST_SECRET:  # `x` of a stand-in is in every word
                message = message.replace(str(known[name]), "***")
        return ServiceError(message, error.code, error.may_pass, error.missing, error.unknown)


def session(target: SageMaker, attempts: int = 6) -> Session:
    """Prepare requests to the account that a target names.

    Args:
        target: Region, profile, address and timeout.
        attempts: How often a call is tried while AWS is busy or does not answer.

    Raises:
        ConfigError: When boto3 is missing or the profile is.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"SageMaker needs the package {error.name!r}: pip install -e '.[sagemaker]' (compiling does without)"
        ) from error
    try:
        boto = boto3.Session(profile_name=target.session.profile, region_name=target.region)
    except BotoCoreError as error:
        raise explain_transport(error, "credentials", target) from None
    return Session(target, boto, attempts)


def client(target: SageMaker, name: str) -> Any:
    """A boto3 client of a service, for one use."""
    return session(target).client(name)


def _config(session: Session) -> Any:
    from botocore.config import Config

    timeout = session.target.session.timeout_seconds
    retries: dict[str, Any] = {"mode": "adaptive"}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = session.attempts
    style = {"addressing_style": "path"} if session.target.session.endpoint else {}
    return Config(connect_timeout=min(10.0, timeout), read_timeout=timeout, retries=retries, s3=style)
