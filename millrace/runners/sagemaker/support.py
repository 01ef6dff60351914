"""What a rehearsal needs, can't do, or does otherwise than the service: said before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.conditions import TYPES
from millrace.runners.sagemaker.definition import Definition, Step
from millrace.runners.sagemaker.expressions import Values, evaluate, references
from millrace.runners.sagemaker.unsupported import (
    model_problems,
    processing_problems,
    training_notes,
    training_problems,
)

__all__ = ["STEP_TYPES", "images_of", "notes", "training_arguments", "unsupported", "user_notes"]

_IGNORED: Mapping[str, str] = {
    "VpcConfig": "VPCs",
    "KmsKeyId": "KMS keys",
    "VolumeKmsKeyId": "KMS keys",
    "Tags": "tags",
    "ExperimentConfig": "experiments",
    "DebugHookConfig": "Debugger",
    "KeepAlivePeriodInSeconds": "warm pools",
    "ManagedInstanceScaling": "managed scaling of instances",
    "MlflowConfig": "MLflow",
}
_STRATEGIES: Mapping[str, str] = {
    "Bayesian": "Bayesian search is done by Optuna's TPE, or at random where Optuna is not installed",
    "Hyperband": "Hyperband is rehearsed as a random search whose jobs run to their ends",
}
_ELSE = (
    ("EndpointConfig", "DataCaptureConfig", "requests and answers are not captured"),
    ("EndpointConfig", "ShadowProductionVariants", "shadow variants get no requests"),
    ("Endpoint", "DeploymentConfig", "traffic is shifted at once, alarms are not looked at"),
    ("Transform", "DataCaptureConfig", "requests and answers are not captured"),
)
_SERIAL = ("RecordIO", "TFRecord")


def unsupported(definition: Definition) -> list[str]:
    """Parts of a definition that a rehearsal can't execute, each with its path and step."""
    found = []
    for step in definition.steps.values():
        where = f"{step.path} ({step.name})"
        if step.type not in _PROBLEMS:
            found.append(f"{where}: steps of type {step.type} need AWS and are not rehearsed")
            continue
        found += [f"{where}: {problem}" for problem in _PROBLEMS[step.type](step.arguments)]
        for dependency in step.depends:
            if dependency.trigger not in ("Completed", "Failed", "Stopped", "Any"):
                found.append(f"{where}: DependsOn: the trigger {dependency.trigger!r} is not known")
    return found


def _condition(arguments: Mapping[str, Any]) -> Iterator[str]:
    for index, condition in enumerate(arguments.get("Conditions", [])):
        yield from _one_condition(condition, f"Arguments.Conditions[{index}]")


def _one_condition(condition: Mapping[str, Any], path: str) -> Iterator[str]:
    kind = condition.get("Type")
    if kind not in TYPES:
        yield f"{path}: conditions of type {kind!r} are not known; allowed: {', '.join(TYPES)}"
    elif kind == "Not":
        yield from _one_condition(condition.get("Condition") or condition.get("Expression") or {}, f"{path}.Condition")
    elif kind in ("Or", "And"):
        for index, inner in enumerate(condition.get("Conditions", [])):
            yield from _one_condition(inner, f"{path}.Conditions[{index}]")


def training_arguments(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A training job of a tuning job as a CreateTrainingJob request, but for its hyperparameters."""
    own = ("DefinitionName", "TuningObjective", "HyperParameterRanges", "StaticHyperParameters", "RetryStrategy")
    found = {key: value for key, value in definition.items() if key not in own}
    resources = found.pop("HyperParameterTuningResourceConfig", None)
    if resources is not None:
        found["ResourceConfig"] = {
            **(resources.get("InstanceConfigs") or [{}])[0],
            **{key: value for key, value in resources.items() if key not in ("InstanceConfigs", "AllocationStrategy")},
        }
    return found


def _tuning(arguments: Mapping[str, Any]) -> Iterator[str]:
    if arguments.get("TrainingJobDefinitions"):
        yield "Arguments.TrainingJobDefinitions: a search over several definitions is not rehearsed"
        return
    if arguments.get("Autotune"):
        yield "Arguments.Autotune: ranges and strategies that the service chooses are not rehearsed"
    config = arguments.get("HyperParameterTuningJobConfig", {})
    if config.get("ParameterRanges", {}).get("AutoParameters"):
        yield "Arguments.HyperParameterTuningJobConfig.ParameterRanges.AutoParameters: not rehearsed, give ranges"
    given = arguments.get("TrainingJobDefinition")
    if given is None:
        yield "Arguments.TrainingJobDefinition: missing"
        return
    yield from (f"Arguments.TrainingJobDefinition.{told}" for told in training_problems(training_arguments(given)))


def _model(arguments: Mapping[str, Any]) -> Iterator[str]:
    containers = arguments.get("Containers") or []
    if len(containers) > 1:
        yield "Arguments.Containers: models of several containers are not rehearsed"
    for name, container in (("PrimaryContainer", arguments.get("PrimaryContainer")), *_numbered(containers)):
        if container and "ModelPackageName" not in container:
            yield from (f"Arguments.{name}.{problem}" for problem in model_problems(container))


def _numbered(containers: list[Any]) -> list[tuple[str, Any]]:
    return [(f"Containers[{index}]", container) for index, container in enumerate(containers)]


def _endpoint_config(arguments: Mapping[str, Any]) -> Iterator[str]:
    for key, what in (("AsyncInferenceConfig", "asynchronous inference"), ("ExplainerConfig", "explanations")):
        if arguments.get(key):
            yield f"Arguments.{key}: {what} is not rehearsed"
    for index, variant in enumerate(arguments.get("ProductionVariants") or []):
        if "ModelName" not in variant:
            yield f"Arguments.ProductionVariants[{index}]: inference components are not rehearsed, name a model"


def _transform(arguments: Mapping[str, Any]) -> Iterator[str]:
    given = arguments.get("TransformInput", {})
    source = given.get("DataSource", {}).get("S3DataSource", {})
    if source.get("S3DataType") not in ("S3Prefix", "ManifestFile"):
        kind = source.get("S3DataType")
        yield f"Arguments.TransformInput.DataSource.S3DataSource.S3DataType: {kind} is not rehearsed"
    if given.get("SplitType") in _SERIAL:
        yield f"Arguments.TransformInput.SplitType: {given['SplitType']} is not rehearsed, only None and Line"
    processing = arguments.get("DataProcessing", {})
    if processing.get("InputFilter", "$") != "$" or processing.get("OutputFilter", "$") != "$":
        yield "Arguments.DataProcessing: filters are not rehearsed"
    if processing.get("JoinSource", "None") != "None":
        yield "Arguments.DataProcessing.JoinSource: joining inputs and outputs is not rehearsed"


def _processing(arguments: Mapping[str, Any]) -> Iterator[str]:
    return (f"Arguments.{problem}" for problem in processing_problems(arguments))


def _training(arguments: Mapping[str, Any]) -> Iterator[str]:
    return (f"Arguments.{problem}" for problem in training_problems(arguments))


def _nothing(arguments: Mapping[str, Any]) -> Iterator[str]:
    return iter(())


_PROBLEMS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "Processing": _processing,
    "Training": _training,
    "Tuning": _tuning,
    "Condition": _condition,
    "Fail": _nothing,
    "Model": _model,
    "RegisterModel": _nothing,
    "EndpointConfig": _endpoint_config,
    "Endpoint": _nothing,
    "Transform": _transform,
}
STEP_TYPES = tuple(_PROBLEMS)
"""Types of steps that are rehearsed."""


def images_of(definition: Definition, values: Values) -> dict[str, str]:
    """Images that containers are made from, with the step that needs each; those that a step gives are left out."""
    found: dict[str, str] = {}
    for step in definition.steps.values():
        for image in _images(step):
            if image is None or references(image):
                continue
            try:
                found.setdefault(str(evaluate(image, values)), step.name)
            except TaskFailedError:
                continue  # told when the step starts
    return found


def _images(step: Step) -> list[Any]:
    given = step.arguments
    if step.type == "Processing":
        return [given.get("AppSpecification", {}).get("ImageUri")]
    if step.type == "Training":
        return [given.get("AlgorithmSpecification", {}).get("TrainingImage")]
    if step.type == "Tuning":
        return [given.get("TrainingJobDefinition", {}).get("AlgorithmSpecification", {}).get("TrainingImage")]
    if step.type == "Model":
        containers = [given.get("PrimaryContainer") or {}, *(given.get("Containers") or [])]
        return [container.get("Image") for container in containers]
    return []


def notes(definition: Definition, cpus: float) -> list[str]:
    """What is not rehearsed as the service would do it."""
    found: list[str] = []
    for key, told in _IGNORED.items():
        if any(_has(step.arguments, key) for step in definition.steps.values()):
            found.append(f"{told} have no effect here")
    steps = definition.steps.values()
    if any(step.retried for step in steps):
        found.append("retry policies have no effect here: they are for faults of the service and a lack of machines")
    if any(step.cached for step in steps):
        found.append("nothing comes from a cache: every step runs")
    if any(step.type in ("Processing", "Training", "Tuning", "Endpoint", "Transform") for step in steps):
        found.append(f"instance types have no effect here: all containers share this machine's {cpus:g} processors")
    for step in steps:
        found += [f"{step.name}: {told}" for told in _told(step)]
    return list(dict.fromkeys(found))


def user_notes(images: Iterable[str], user_of: Callable[[str], str]) -> list[str]:
    """Which images don't run as root, as the service wants it; Millrace's own ones are made for that."""
    found = []
    for image in images:
        user = user_of(image)
        if user.partition(":")[0] not in ("", "0", "root") and "/millrace/" not in f"/{image}":
            found.append(
                f"{image} runs as user {user}: SageMaker's folders below /opt/ml are root's, so a job may not be able "
                "to write there; here it can"
            )
    return found


def _told(step: Step) -> Iterator[str]:
    given = step.arguments
    if step.type == "Training":
        yield from training_notes(given)
    elif step.type == "Tuning":
        yield from training_notes(given.get("TrainingJobDefinition", {}))
        strategy = given.get("HyperParameterTuningJobConfig", {}).get("Strategy")
        if strategy in _STRATEGIES:
            yield _STRATEGIES[strategy]
    elif step.type == "EndpointConfig" and any("ServerlessConfig" in item for item in given["ProductionVariants"]):
        yield "serverless variants are answered by a container that is always there"
    for kind, key, told in _ELSE:
        if step.type == kind and given.get(key):
            yield told


def _has(item: Any, key: str) -> bool:
    if isinstance(item, Mapping):
        return any((name == key and bool(value)) or _has(value, key) for name, value in item.items())
    return isinstance(item, list) and any(_has(value, key) for value in item)
