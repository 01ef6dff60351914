"""One rehearsal that goes on: what all its steps share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.record import TaskState
from millrace.runners.sagemaker.definition import Definition, Step
from millrace.runners.sagemaker.endpoints import Hosting
from millrace.runners.sagemaker.expressions import Values
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.record import Rehearsal, StepRecord

__all__ = ["Run"]


@dataclass
class Run:
    """A rehearsal."""

    definition: Definition
    place: Place
    hosting: Hosting
    values: Values
    record: Rehearsal
    directory: Path
    parallel: int
    slots: asyncio.Semaphore
    """One for each job that may run at the same time."""
    interrupt: Mapping[str, float]
    """Seconds after which a training step's machine is taken away."""
    keeps_outputs: bool
    """Whether outputs are copied to the folder of the rehearsal: its store ends with it."""
    watch: Callable[[Rehearsal], None] = lambda record: None
    properties: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of the steps that have ended well."""

    def __post_init__(self) -> None:
        self.values.steps = self.properties
        self.values.property_file = self.property_file
        self.values.read = self.read

    def begin(self, step: Step) -> StepRecord:
        """The record of a step whose turn it is; a job waits for a slot."""
        entry = StepRecord(name=step.name, type=step.type, started=datetime.now(UTC))
        self.record.steps[step.name] = entry
        self.changed()
        return entry

    def started(self, entry: StepRecord, hosts: int = 0) -> None:
        """Note that the work of a step goes on now."""
        entry.state, entry.started, entry.hosts = TaskState.RUNNING, datetime.now(UTC), hosts
        self.changed()

    def end(self, entry: StepRecord, state: TaskState, reason: str = "") -> None:
        """Note how a step ended."""
        entry.state, entry.reason = state, reason
        if entry.started is not None:
            entry.seconds = round((datetime.now(UTC) - entry.started).total_seconds(), 3)
        self.changed()

    def changed(self) -> None:
        """Show the record as it is now."""
        self.watch(self.record)

    def name(self, step: Step) -> str:
        """A name for a step's job that no other has, made as the service makes them."""
        longest = 32 if step.type == "Tuning" else 63
        end = f"-{secrets.token_hex(5)}"
        plain = step.name.replace("_", "-").strip("-")
        start = f"pipelines-{self.record.execution}-" if longest > 32 else f"{self.record.execution}-"
        return start + plain[: longest - len(start) - len(end)].strip("-") + end

    def read(self, uri: str) -> bytes:
        """An object's content.

        Raises:
            FileNotFoundError: When it is not there.
            TaskFailedError: When it can't be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            content: bytes = self.place.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in ("NoSuchKey", "NoSuchBucket", "404"):
                raise FileNotFoundError(uri) from None
            raise TaskFailedError(f"{uri}: {code}") from None
        except BotoCoreError as error:
            raise TaskFailedError(f"{uri}: {type(error).__name__}") from None
        return content

    def property_file(self, step: str, name: str) -> str:
        """The URI of a property file.

        Raises:
            TaskFailedError: When the step has no such file.
        """
        files = self.definition.steps[step].property_files
        if name not in files:
            raise TaskFailedError(f"step {step!r} has no property file {name!r}")
        output, path = files[name]
        outputs = self.properties[step].get("ProcessingOutputConfig", {}).get("Outputs", {})
        if output not in outputs:
            raise TaskFailedError(f"property file {name!r}: step {step!r} has no output {output!r}")
        return f"{str(outputs[output]['S3Output']['S3Uri']).rstrip('/')}/{path}"
