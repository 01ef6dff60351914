"""What a job or model of a definition may ask for that can't be rehearsed: known before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["model_problems", "processing_problems", "training_notes", "training_problems"]

_TRAINING = {
    "ServerlessJobConfig": "serverless training",
    "ModelPackageConfig": "a base model from the registry",
}
_MODES = ("File", "FastFile")
_KINDS = ("S3Prefix", "ManifestFile")


def processing_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a CreateProcessingJob request, each with its path; open expressions are passed over."""
    return [
        *_in_inputs(arguments.get("ProcessingInputs")),
        *_in_outputs(_inside(arguments.get("ProcessingOutputConfig")).get("Outputs")),
    ]


def _in_inputs(inputs: Any) -> Iterator[str]:
    for index, given in enumerate(inputs if isinstance(inputs, list) else ()):
        path = f"ProcessingInputs[{index}]"
        if "S3Input" not in given:
            yield f"{path}: only S3Input is possible, no DatasetDefinition"
            continue
        source = given["S3Input"]
        if given.get("AppManaged") is True:
            yield f"{path}.AppManaged: the application would have to read it itself"
        if source.get("S3InputMode") == "Pipe":
            yield f"{path}.S3Input.S3InputMode: Pipe is not possible, only File"
        elif source.get("S3CompressionType") == "Gzip":
            yield f"{path}.S3Input.S3CompressionType: the service takes Gzip with S3InputMode Pipe only"


def _in_outputs(outputs: Any) -> Iterator[str]:
    for index, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if "FeatureStoreOutput" in output:
            yield f"ProcessingOutputConfig.Outputs[{index}].FeatureStoreOutput: there is no feature store here"


def training_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a CreateTrainingJob request, each with its path; open expressions are passed over."""
    asked = _inside(arguments.get("AlgorithmSpecification"))
    found = [f"{key}: {what} is not possible here" for key, what in _TRAINING.items() if key in arguments]
    if "AlgorithmName" in asked:
        found.append("AlgorithmSpecification.AlgorithmName: only a TrainingImage can be run here")
    channels = arguments.get("InputDataConfig")
    for index, channel in enumerate(channels if isinstance(channels, list) else ()):
        found += _in_channel(f"InputDataConfig[{index}]", channel, asked.get("TrainingInputMode"))
    return found


def _in_channel(path: str, channel: Mapping[str, Any], default: Any) -> Iterator[str]:
    source = _inside(channel.get("DataSource")).get("S3DataSource")
    if not isinstance(source, Mapping):
        yield f"{path}.DataSource: only S3DataSource is possible"
        return
    kind = source.get("S3DataType", _KINDS[0])
    if isinstance(kind, str) and kind not in _KINDS:
        yield f"{path}.DataSource.S3DataSource.S3DataType: {kind}, and possible are {', '.join(_KINDS)}"
    mode = channel.get("InputMode") or default
    if isinstance(mode, str) and mode not in _MODES:
        yield f"{path}.InputMode: {mode}, and possible are {', '.join(_MODES)}"
    elif channel.get("CompressionType") == "Gzip":
        yield f"{path}.CompressionType: the service takes Gzip with InputMode Pipe only"
    if channel.get("RecordWrapperType") == "RecordIO":
        yield f"{path}.RecordWrapperType: RecordIO is not possible"
    for key in ("HubAccessConfig", "ModelAccessConfig"):
        if key in source:
            yield f"{path}.DataSource.S3DataSource.{key}: only objects of a bucket are possible"


def training_notes(arguments: Mapping[str, Any]) -> list[str]:
    """What of a CreateTrainingJob request does nothing in a rehearsal."""
    channels = arguments.get("InputDataConfig")
    found = [
        f"InputDataConfig[{index}].ShuffleConfig: nothing is shuffled here"
        for index, channel in enumerate(channels if isinstance(channels, list) else ())
        if "ShuffleConfig" in channel
    ]
    for key in ("DebugRuleConfigurations", "ProfilerRuleConfigurations"):
        if key in arguments:
            found.append(f"{key}: no rules are run here")
    if "ProfilerConfig" in arguments:
        found.append("ProfilerConfig: nothing is profiled here")
    return found


def model_problems(container: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a ContainerDefinition, each with its path; open expressions are passed over."""
    found = []
    if container.get("Mode") == "MultiModel":
        found.append("Mode: MultiModel is not possible")
    for key in ("ModelPackageName", "InferenceSpecificationName", "AdditionalModelDataSources", "MultiModelConfig"):
        if key in container:
            found.append(f"{key} is not possible")
    source = _inside(_inside(container.get("ModelDataSource")).get("S3DataSource"))
    for key in ("HubAccessConfig", "ModelAccessConfig"):
        if key in source:
            found.append(f"ModelDataSource.S3DataSource.{key}: only objects of a bucket are possible")
    return found


def _inside(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
