"""A compiled pipeline as an object of the SageMaker Python SDK, for notebooks.

The document stays what it is: the SDK is only the hand that brings it to the service, and that may add steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from millrace.errors import ConfigError, DataError, UnsupportedError

__all__ = ["sdk_pipeline"]

_PARAMETERS = {kind: f"Parameter{kind}" for kind in ("String", "Integer", "Float", "Boolean")}


def sdk_pipeline(text: str, name: str, *, role: str | None = None, session: Any = None) -> Any:
    """A `sagemaker.mlops.workflow.pipeline.Pipeline` of a compiled document.

    Its `definition()` is the document; `upsert()`, `start()` and `describe()` are the SDK's own. Steps and parameters
    of the SDK may be appended to its `steps` and `parameters`.

    Args:
        text: What `millrace compile target=sagemaker` writes.
        name: Of the pipeline.
        role: ARN with which the service runs the pipeline; what `create`, `update` and `upsert` use unless they are
            given another one.
        session: A session of the SDK; without one the SDK makes its own, which asks AWS.

    Raises:
        ConfigError: When the text is no pipeline definition.
        DataError: When a parameter is of a type that there is not.
        UnsupportedError: When the SDK is not installed.
    """
    document = _document(text)
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION", "us-east-1"))  # its import needs one
    try:
        workflow = import_module("sagemaker.mlops.workflow.pipeline")
        base_step: Any = import_module("sagemaker.mlops.workflow.steps").Step
        parameters = import_module("sagemaker.core.workflow.parameters")
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the SageMaker Python SDK is not installed ({error.name}): pip install -e '.[sagemaker-sdk]'"
        ) from error
    step_class = _step_class(base_step)
    pipeline: Any = _pipeline_class(workflow.Pipeline, role)(
        name=name,
        parameters=[_parameter(parameters, told) for told in document.get("Parameters", ())],
        steps=[step_class(told) for told in document["Steps"]],
        pipeline_experiment_config=_Given(document.get("PipelineExperimentConfig")),
        sagemaker_session=session,
    )
    return pipeline


class _Given:
    """A part of the document that is passed on as it is."""

    def __init__(self, told: Any) -> None:
        self.told = told

    def to_request(self) -> Any:
        return self.told


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"no pipeline definition: it is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Steps"), list):
        raise ConfigError("no pipeline definition: it must be a JSON object with a list of Steps")
    return document


def _parameter(module: Any, told: Mapping[str, Any]) -> Any:
    kind = str(told.get("Type"))
    if kind not in _PARAMETERS:
        raise DataError(
            f"no pipeline definition: parameter {told.get('Name')!r} is of the type {kind!r}; known ones are "
            f"{', '.join(_PARAMETERS)}"
        )
    made: Any = getattr(module, _PARAMETERS[kind])
    more = {"enum_values": told["EnumValues"]} if "EnumValues" in told else {}
    return made(name=told["Name"], default_value=told.get("DefaultValue"), **more)


def _step_class(base: Any) -> Any:
    """A step of the SDK that is written out as it is in the document."""

    def begin(self: Any, told: dict[str, Any]) -> None:
        base.__init__(self, name=told["Name"], depends_on=told.get("DependsOn"))
        self.told = told

    members: dict[str, Any] = {
        "__init__": begin,
        "arguments": property(lambda self: self.told.get("Arguments", {})),
        "properties": property(lambda _: None),
        "to_request": lambda self: self.told,
    }
    return type("CompiledStep", (base,), members)


def _pipeline_class(base: Any, role: str | None) -> Any:
    def definition(self: Any) -> str:
        written = json.loads(base.definition(self))
        return json.dumps({name: value for name, value in written.items() if value is not None})

    def with_role(method: str) -> Any:
        def call(self: Any, role_arn: str | None = None, *more: Any, **options: Any) -> Any:
            return getattr(base, method)(self, role_arn or role, *more, **options)

        return call

    members: dict[str, Any] = {method: with_role(method) for method in ("create", "update", "upsert")}
    return type("CompiledPipeline", (base,), {**members, "definition": definition})
