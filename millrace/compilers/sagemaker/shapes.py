"""SageMaker's own description of its requests and answers, as botocore carries it: no client, no region."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from millrace.errors import ConfigError

__all__ = ["CREATED", "FILLED", "Shape", "answers", "pattern_of_shape", "request", "shape"]


class Shape(NamedTuple):
    """A shape and its name."""

    name: str
    data: Mapping[str, Any]

    @property
    def type(self) -> str:
        """`structure`, `list`, `map`, `string`, `integer`, `long`, `float`, `double`, `boolean`, `timestamp`, ..."""
        return str(self.data["type"])

    @property
    def members(self) -> Mapping[str, Any]:
        """Fields of a structure; each has the name of its shape."""
        found: Mapping[str, Any] = self.data.get("members", {})
        return found

    def below(self, part: str) -> Shape:
        """The shape of a structure's field, or of a list's `member`, a map's `key` and `value`."""
        return shape((self.members[part] if self.type == "structure" else self.data[part])["shape"])


CREATED: Mapping[str, str] = {
    "Processing": "CreateProcessingJobRequest",
    "Training": "CreateTrainingJobRequest",
    "Tuning": "CreateHyperParameterTuningJobRequest",
    "Transform": "CreateTransformJobRequest",
    "Model": "CreateModelInput",
    "RegisterModel": "CreateModelPackageInput",
    "EndpointConfig": "CreateEndpointConfigInput",
    "Endpoint": "CreateEndpointInput",
    "InferenceComponent": "CreateInferenceComponentInput",
    "AutoML": "CreateAutoMLJobRequest",
}
"""Shape of a step's Arguments, by type; of others, SageMaker has no shape."""

FILLED: Mapping[str, str] = {
    "Processing": "ProcessingJobName",
    "Training": "TrainingJobName",
    "Tuning": "HyperParameterTuningJobName",
    "Transform": "TransformJobName",
    "Model": "ModelName",
    "EndpointConfig": "EndpointConfigName",
    "Endpoint": "EndpointName",
    "InferenceComponent": "InferenceComponentName",
    "AutoML": "AutoMLJobName",
}
"""Required fields that the pipeline fills in where a step leaves them out."""

_ANSWERS: Mapping[str, tuple[str, ...]] = {
    "Processing": ("DescribeProcessingJobResponse",),
    "Training": ("DescribeTrainingJobResponse",),
    "Tuning": ("DescribeHyperParameterTuningJobResponse", "ListTrainingJobsForHyperParameterTuningJobResponse"),
    "Transform": ("DescribeTransformJobResponse",),
    "Model": ("DescribeModelOutput",),
    "RegisterModel": ("DescribeModelPackageOutput",),
    "EndpointConfig": ("DescribeEndpointConfigOutput",),
    "Endpoint": ("DescribeEndpointOutput",),
    "InferenceComponent": ("DescribeInferenceComponentOutput",),
}


def request(kind: str, arguments: Mapping[str, Any]) -> Shape | None:
    """The shape of the Arguments of a step of some type; None where there is none."""
    name = CREATED.get(kind)
    if kind == "AutoML" and "AutoMLJobInputDataConfig" in arguments:
        name = "CreateAutoMLJobV2Request"
    return None if name is None else shape(name)


def answers(kind: str) -> Iterator[Shape]:
    """The shapes of which a step's properties are fields; none where they are not known."""
    return (shape(name) for name in _ANSWERS.get(kind, ()))


def shape(name: str) -> Shape:
    """A shape by its name."""
    return Shape(name, _shapes()[name])


@lru_cache(maxsize=1)
def _shapes() -> Mapping[str, Any]:
    try:
        from botocore.loaders import Loader
    except ImportError as error:
        raise ConfigError(
            "definitions of SageMaker are checked with botocore: pip install -e '.[sagemaker]'"
        ) from error
    found: Mapping[str, Any] = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    return found


_CLASSES = {r"\p{Alnum}": "a-zA-Z0-9", r"\p{L}": r"\w", r"\p{M}": r"\w", r"\p{N}": r"\w", r"\p{Z}": r"\s"}
_OPEN = re.compile(r"\\p\{[SP]\}|\\uD[89A-F]")


@lru_cache(maxsize=512)
def pattern_of_shape(pattern: str) -> re.Pattern[str] | None:
    """A pattern of the service, which is Java's, as Python's; None where Python has no such thing."""
    if _OPEN.search(pattern):
        return None
    for theirs, ours in _CLASSES.items():
        pattern = pattern.replace(theirs, ours)
    try:
        return re.compile(pattern)
    except re.error:
        return None
