"""The files by which SageMaker tells a container what it is to do.

They are read as they come: unknown keys are none of our business, nulls stand for what is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from millrace.errors import ConfigError, explain_os_error, explain_validation
from millrace.runtime.context import Hosts

__all__ = [
    "BASE",
    "PROCESSING_CONFIG",
    "Channel",
    "Hyperparameters",
    "InputDataConfig",
    "ProcessingInput",
    "ProcessingJobConfig",
    "ProcessingOutput",
    "ResourceConfig",
    "inside",
    "read",
]

BASE = Path("/opt/ml")
"""Below which SageMaker puts everything."""
PROCESSING_CONFIG = "config/processingjobconfig.json"
"""By which a processing job is recognised."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_pascal, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class ResourceConfig(BaseModel):
    """resourceconfig.json: the machines of a job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    current_host: str
    hosts: tuple[str, ...] = Field(min_length=1)
    """Of all instance groups."""
    network_interface_name: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> ResourceConfig:
        if self.current_host not in self.hosts:
            raise ValueError(f"current_host {self.current_host!r} is not one of hosts, {list(self.hosts)}")
        return self

    def as_hosts(self, processes: int = 1) -> Hosts:
        """The hosts in an order that is the same on all of them."""
        names = tuple(sorted(set(self.hosts)))
        return Hosts(names=names, index=names.index(self.current_host), processes=processes)


class _S3Input(_Told):
    local_path: str = ""
    s3_uri: str = ""
    s3_data_distribution_type: str = "FullyReplicated"


class ProcessingInput(_Told):
    """One input of a processing job."""

    input_name: str
    s3_input: _S3Input = _S3Input()


class _S3Output(_Told):
    local_path: str = ""


class ProcessingOutput(_Told):
    """One output of a processing job."""

    output_name: str
    s3_output: _S3Output = _S3Output()


class _Outputs(_Told):
    outputs: tuple[ProcessingOutput, ...] = ()


class ProcessingJobConfig(_Told):
    """processingjobconfig.json."""

    processing_job_name: str = ""
    processing_inputs: tuple[ProcessingInput, ...] = ()
    processing_output_config: _Outputs = _Outputs()


class Channel(_Told):
    """How one channel of a training job comes."""

    training_input_mode: Literal["File", "FastFile", "Pipe"] = "File"


class InputDataConfig(RootModel[dict[str, Channel]]):
    """inputdataconfig.json: channels by name."""


class Hyperparameters(RootModel[dict[str, str]]):
    """hyperparameters.json: all values are text."""

    def own(self) -> dict[str, str]:
        """Without those that SageMaker and its toolkits add for themselves."""
        return {name: text for name, text in self.root.items() if not re.match("_|sagemaker_", name)}


def read(path: Path, model: type[ModelT]) -> ModelT:
    """A file of SageMaker's.

    Raises:
        ConfigError: When it is not there or not what it should be.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"no container of SageMaker: {explain_os_error(error)}") from error
    except ValidationError as error:
        raise ConfigError(explain_validation(error, prefix=str(path))) from error


def inside(base: Path, path: str) -> Path:
    """A path of SageMaker's (`/opt/ml/...`), below another folder in tests.

    Raises:
        ConfigError: When it leads elsewhere.
    """
    told = Path(path)
    if not told.is_relative_to(BASE) or ".." in told.parts:
        raise ConfigError(f"{path!r} is no path below {BASE}")
    return base / told.relative_to(BASE)
