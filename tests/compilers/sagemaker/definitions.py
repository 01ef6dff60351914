"""Definitions that were compiled, and what tests ask of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from millrace.compilers.sagemaker import compile_pipeline
from millrace.pipelines.digits import Digits, digits
from millrace.specs import PipelineSpec
from millrace.targets.sagemaker import SageMaker

ROLE = "arn:aws:iam::123456789012:role/millrace"
REQUESTS = {
    "Processing": ("CreateProcessingJob", "ProcessingJobName"),
    "Training": ("CreateTrainingJob", "TrainingJobName"),
    "Tuning": ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName"),
}


class Definition:
    """A definition with its steps by name, wherever they are nested."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.content: dict[str, Any] = json.loads(text)
        self.steps = {step["Name"]: step for step in nested(self.content["Steps"])}

    def request(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = self.steps[step]["Arguments"]
        return found

    def words(self, step: str) -> list[Any]:
        found: list[Any] = self.request(step)["AppSpecification"]["ContainerArguments"]
        return found

    def inputs(self, step: str) -> dict[str, dict[str, Any]]:
        return {one["InputName"]: one["S3Input"] for one in self.request(step).get("ProcessingInputs", ())}

    def channels(self, step: str) -> dict[str, dict[str, Any]]:
        request = self.request(step)
        job = request.get("TrainingJobDefinition", request)
        return {one["ChannelName"]: one for one in job.get("InputDataConfig", ())}


def nested(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        if step["Type"] == "Condition":
            yield from nested([*step["Arguments"]["IfSteps"], *step["Arguments"]["ElseSteps"]])


def sagemaker(**settings: Any) -> SageMaker:
    """A target with a role and a bucket; the endpoint is checked in its step unless `serving` says otherwise."""
    values = {"role": ROLE, "bucket": "store", "serving": {"kind": "none"}, "images": {"tag": "1.0"}, **settings}
    return SageMaker.model_validate(values)


def compiled(spec: PipelineSpec, **settings: Any) -> Definition:
    """A pipeline's definition, each request of which botocore takes."""
    definition = Definition(compile_pipeline(spec, sagemaker(**settings)))
    for step in definition.steps.values():
        check_request(step)
    return definition


def of_digits(change: Callable[[PipelineSpec], PipelineSpec] = lambda spec: spec, **settings: Any) -> Definition:
    """The pipeline digits with its search, changed."""
    return compiled(change(searching()), **settings)


@functools.cache
def searching() -> PipelineSpec:
    space = {"learning_rate": {"kind": "float", "low": 5e-4, "high": 1e-2, "log": True}}
    return digits.compose(Digits.model_validate({"tune": {"trials": 4, "space": space}}))


def with_task(spec: PipelineSpec, name: str, **changes: Any) -> PipelineSpec:
    """A pipeline with one task changed; `parameters` are put over those that it has."""
    task = spec.task(name)
    if "parameters" in changes:
        changes["parameters"] = {**task.parameters, **changes["parameters"]}
    changed = task.model_copy(update=changes)
    return spec.model_copy(update={"tasks": tuple(changed if one.name == name else one for one in spec.tasks)})


def check_request(step: Mapping[str, Any]) -> None:
    """Let botocore look at a step's request, with something of the right type in place of what is not known yet."""
    if step["Type"] not in REQUESTS:
        return
    operation, name = REQUESTS[step["Type"]]
    shape = service().operation_model(operation).input_shape
    report = ParamValidator().validate({**filled(step["Arguments"]), name: "name"}, shape)
    assert not report.has_errors(), f"{step['Name']}: {report.generate_report()}"


def filled(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"Get"}:
            raw = any(value["Get"] == f"Parameters.tune_{name}" for name in ("trials", "parallel", "seed"))
            return 3 if raw else "s3://bucket/a/long/text"
        if value.keys() & {"Std:Join", "Std:JsonGet"}:
            return "s3://bucket/a/long/text"
        return {key: filled(item) for key, item in value.items()}
    return [filled(item) for item in value] if isinstance(value, list) else value


@functools.cache
def service() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
