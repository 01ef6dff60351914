"""Kubeflow's executor input and output, and where artifacts are inside a pod.

Backends of other versions may know more fields than these; what they do not say is empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from millrace.errors import ConfigError, explain_validation

__all__ = [
    "ExecutorInput",
    "ExecutorOutput",
    "RuntimeArtifact",
    "RuntimeArtifacts",
    "artifact_path",
    "plain_metadata",
    "read_executor_input",
    "whole_numbers",
    "without_nulls",
]

_MOUNTS = {"gs": "/gcs/", "s3": "/s3/", "minio": "/minio/"}
_WORKSPACE = Path("/kfp-workspace/.artifacts")
_IN_WORKSPACE = "_kfp_workspace"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class RuntimeArtifact(_Wire):
    """An artifact as the backend knows it."""

    name: str = ""
    uri: str = ""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    custom_path: str | None = None


class RuntimeArtifacts(_Wire):
    """The artifacts of one port."""

    artifacts: tuple[RuntimeArtifact, ...] = ()


class _OutputParameter(_Wire):
    output_file: str = ""


class _Inputs(_Wire):
    parameter_values: dict[str, JsonValue] = Field(default_factory=dict)
    artifacts: dict[str, RuntimeArtifacts] = Field(default_factory=dict)


class _Outputs(_Wire):
    parameters: dict[str, _OutputParameter] = Field(default_factory=dict)
    artifacts: dict[str, RuntimeArtifacts] = Field(default_factory=dict)
    output_file: Path


class ExecutorInput(_Wire):
    """What `{{$}}` becomes."""

    inputs: _Inputs = _Inputs()
    outputs: _Outputs


class ExecutorOutput(_Wire):
    """What the backend reads when the task is done."""

    parameter_values: dict[str, float] = Field(default_factory=dict)
    artifacts: dict[str, RuntimeArtifacts] = Field(default_factory=dict)


def read_executor_input(text: str) -> ExecutorInput:
    """Parse `{{$}}`.

    Raises:
        ConfigError: When it is no executor input.
    """
    try:
        return ExecutorInput.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, prefix="--executor-input")) from error


def artifact_path(artifact: RuntimeArtifact) -> Path:
    """Where the backend puts an artifact, or looks for it, in the task's container.

    Raises:
        ConfigError: When the URI is of a store that backends do not mount.
    """
    if artifact.custom_path:
        return Path(artifact.custom_path)
    scheme, separator, rest = artifact.uri.partition("://")
    if not separator:
        return Path(artifact.uri)
    if scheme == "oci":
        return Path("/oci", rest.replace("/", "_"), "models")
    if scheme not in _MOUNTS:
        raise ConfigError(f"{artifact.uri!r}: allowed are {', '.join(sorted([*_MOUNTS, 'oci']))}://, and local paths")
    path = Path(_MOUNTS[scheme] + rest)
    return _WORKSPACE / path.relative_to("/") if artifact.metadata.get(_IN_WORKSPACE) is True else path


def plain_metadata(metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Metadata as the component that made the artifact gave it.

    The backend's metadata store wraps lists and objects, knows only one kind of number, and adds keys.
    """
    return {name: whole_numbers(_unwrapped(value)) for name, value in metadata.items() if name != _IN_WORKSPACE}


def whole_numbers(value: JsonValue) -> JsonValue:
    """The value with numbers that are whole as int, however deep: protocol buffers know floats only."""
    if isinstance(value, dict):
        return {name: whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_nulls(metadata: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Metadata that the backend can store: no nulls, no numbers that are not finite."""
    return {name: _storable(value) for name, value in metadata.items() if _allowed(value)}


def _storable(value: Any) -> JsonValue:
    if isinstance(value, Mapping):
        return without_nulls(value)
    if isinstance(value, (list, tuple)):
        return [_storable(inner) for inner in value if _allowed(inner)]
    stored: JsonValue = value
    return stored


def _allowed(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _unwrapped(value: JsonValue) -> JsonValue:
    if isinstance(value, dict) and len(value) == 1:
        [(name, inner)] = value.items()
        if (name == "struct" and isinstance(inner, dict)) or (name == "list" and isinstance(inner, list)):
            return inner
    return value
