"""Where jobs and servers of a rehearsal run, and how one of them ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from millrace.errors import ConfigError
from millrace.runners.engine import Engine
from millrace.runners.sagemaker.relay import for_containers
from millrace.runners.store import Store
from millrace.targets.aws_names import partition_of

__all__ = ["Ended", "Place", "open_place"]

State = Literal["Completed", "Failed", "Stopped"]
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Place:
    """What all jobs of a rehearsal share; made by `open_place`."""

    engine: Engine
    store: Store
    directory: Path
    """Folder of the rehearsal: jobs leave their logs in `jobs/NAME/HOST.log`."""
    region: str
    account: str
    environment: Mapping[str, str]
    """With which containers reach the store."""
    grace: float = 120
    """Seconds between the service's SIGTERM and its SIGKILL."""

    @cached_property
    def client(self) -> Any:
        """A boto3 client of the store, which threads may share."""
        import boto3
        from botocore.config import Config

        known = self.store.environment
        return boto3.client(
            "s3",
            region_name=known.get("AWS_REGION", self.region),
            endpoint_url=self.store.endpoint,
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=known.get("AWS_SESSION_TOKEN"),
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=32,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def arn(self, kind: str, name: str) -> str:
        """The name of a resource as the service would give it."""
        return f"arn:{partition_of(self.region)}:sagemaker:{self.region}:{self.account}:{kind}/{name}"

    def logs(self, job: str) -> Path:
        """The folder of a job's logs, which is made."""
        folder = self.directory / "jobs" / job
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    state: State
    reason: str
    """Why it did not complete, as `FailureReason` or `ExitMessage` of the service; empty when it did."""
    properties: Mapping[str, Any]
    """Shaped as the service's Describe answer. Lists that a definition reaches into by name are mappings by that name:
    ProcessingInputs, ProcessingOutputConfig.Outputs and FinalMetricDataList."""
    logs: tuple[Path, ...] = ()
    """One file for each host."""
    notes: tuple[str, ...] = field(default=())
    """What went otherwise than at the service."""


@contextlib.contextmanager
def open_place(
    engine: Engine, store: Store, directory: Path, *, region: str, account: str = "000000000000", grace: float = 120
) -> Iterator[Place]:
    """A place for jobs; a store at this machine's loopback is made reachable for containers as long as it is open.

    Raises:
        ConfigError: When containers can't reach the store, or a package is missing.
    """
    if find_spec("boto3") is None:
        raise ConfigError("a rehearsal needs boto3: pip install -e '.[rehearse]'")
    with for_containers(store.endpoint, engine) as address:
        kept = {name: value for name, value in store.environment.items() if name in _KEYS}
        environment = {**kept, "AWS_ENDPOINT_URL": address, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        yield Place(engine, store, directory, region, account, environment, grace)
