"""Rules across fields of processing and training jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.limits import PROCESSING_ROOT, TRAINING_SECONDS, TRAINING_SECONDS_DEFAULT
from millrace.compilers.sagemaker.view import View, error, mapping, number, pick, quoted, sequence, text, warning

__all__ = ["metric_definitions", "once", "processing", "spot", "tags", "training", "training_job"]


def once(items: Sequence[Any], field: str, path: str) -> Iterator[Finding]:
    """Items of a list have names of their own."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        name = mapping(item).get(field)
        if isinstance(name, str) and name in seen:
            yield error(f"{path}[{index}].{field}", f"{name!r} is there twice: rename one")
        elif isinstance(name, str):
            seen.add(name)


def processing(view: View) -> Iterator[Finding]:
    """Inputs and outputs of processing jobs have names and places of their own."""
    for step in view.of_kind("Processing"):
        inputs = sequence(step.arguments.get("ProcessingInputs"))
        outputs = sequence(pick(step.arguments, "ProcessingOutputConfig", "Outputs"))
        into, out_of = step.at("ProcessingInputs"), step.at("ProcessingOutputConfig", "Outputs")
        yield from _image(mapping(step.arguments.get("AppSpecification")), "ImageUri", step.at("AppSpecification"))
        yield from once(inputs, "InputName", into)
        yield from once(outputs, "OutputName", out_of)
        for index, item in enumerate(inputs):
            yield from _one_of(item, ("S3Input", "DatasetDefinition"), f"{into}[{index}]")
        for index, item in enumerate(outputs):
            yield from _one_of(item, ("S3Output", "FeatureStoreOutput"), f"{out_of}[{index}]")
        yield from _places([*_local(inputs, into, "S3Input"), *_local(outputs, out_of, "S3Output")])
        hosts = pick(step.arguments, "ProcessingResources", "ClusterConfig", "InstanceCount")
        for index, item in enumerate(inputs):
            if hosts == 1 and pick(item, "S3Input", "S3DataDistributionType") == "ShardedByS3Key":
                path = f"{into}[{index}].S3Input.S3DataDistributionType"
                yield warning(path, "ShardedByS3Key with one host is the same as FullyReplicated: raise InstanceCount")


def tags(view: View) -> Iterator[Finding]:
    """Tags have keys of their own, and none of AWS's."""
    for step in view.listed:
        given = sequence(step.arguments.get("Tags"))
        yield from once(given, "Key", step.at("Tags"))
        for index, one in enumerate(given):
            key = text(mapping(one).get("Key"))
            if key is not None and key.lower().startswith("aws:"):
                yield error(f"{step.at('Tags')}[{index}].Key", f"{quoted(key)}: such keys are AWS's own: rename it")


def _image(given: Mapping[str, Any], field: str, path: str) -> Iterator[Finding]:
    image = text(given.get(field))
    if image is not None and not image.strip():
        yield error(f"{path}.{field}", "the text is empty: name an image in ECR")


def _one_of(item: Any, names: tuple[str, str], path: str) -> Iterator[Finding]:
    given = [name for name in names if name in mapping(item)]
    optional = mapping(item).get("AppManaged") is True
    if len(given) == 2 or not (given or optional or not mapping(item)):
        yield error(path, f"either {names[0]} or {names[1]} is needed, {'both are' if given else 'none is'} given")


def _local(items: Sequence[Any], path: str, field: str) -> Iterator[tuple[str, str]]:
    """Paths of the fields and the places in the container that they name."""
    for index, item in enumerate(items):
        place = pick(item, field, "LocalPath")
        if isinstance(place, str):
            yield f"{path}[{index}].{field}.LocalPath", place


def _places(given: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for path, place in given:
        folder = re.sub(r"/+", "/", place).rstrip("/")
        if not folder.startswith(f"{PROCESSING_ROOT}/") or ".." in folder.split("/"):
            yield error(path, f"{quoted(place)}: places of a processing job are below {PROCESSING_ROOT}/")
            continue
        if folder in seen:
            yield error(path, f"{place!r} is the place of {seen[folder]}, too: give each one of its own")
        nested = [one for one in seen if f"{folder}/".startswith(f"{one}/") or f"{one}/".startswith(f"{folder}/")]
        # inputs lie in each other in many examples of AWS's, the program beside the data; outputs would be stored twice
        if folder not in seen and nested and ".Outputs[" in path:
            told = "one's files are among the other's: give each a place of its own"
            yield warning(path, f"{place!r} and {nested[0]!r}, of {seen[nested[0]]}, lie in each other: {told}")
        seen.setdefault(folder, path)


def training(view: View) -> Iterator[Finding]:
    """Training steps."""
    for step in view.of_kind("Training"):
        yield from training_job(step.arguments, step.at())
        machines = mapping(step.arguments.get("ResourceConfig"))
        kept = number(machines.get("KeepAlivePeriodInSeconds"))
        if kept and step.arguments.get("EnableManagedSpotTraining") is True:
            told = "machines of spot capacity can't be kept for the next job: leave it out, or train without spot"
            yield error(step.at("ResourceConfig", "KeepAlivePeriodInSeconds"), told)
        if not machines and "ServerlessJobConfig" not in step.arguments:
            yield error(step.at("ResourceConfig"), "a value is required")


def training_job(job: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """What training jobs of steps and those of tuning jobs have in common."""
    algorithm = mapping(job.get("AlgorithmSpecification"))
    if algorithm and ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        told = f"{'both are' if 'TrainingImage' in algorithm else 'none is'} given"
        yield error(f"{path}.AlgorithmSpecification", f"either TrainingImage or AlgorithmName is needed, {told}")
    yield from _image(algorithm, "TrainingImage", f"{path}.AlgorithmSpecification")
    yield from metric_definitions(algorithm, f"{path}.AlgorithmSpecification.MetricDefinitions")
    yield from _channels(job, path)
    if "ResourceConfig" in job:
        yield from _machines(mapping(job["ResourceConfig"]), f"{path}.ResourceConfig")
    longest = number(pick(job, "StoppingCondition", "MaxRuntimeInSeconds"))
    if longest is not None and longest > TRAINING_SECONDS:
        told = f"{longest:,} seconds; a training job runs {TRAINING_SECONDS:,} (28 days) at most"
        yield error(f"{path}.StoppingCondition.MaxRuntimeInSeconds", told)
    yield from spot(job, path)


def metric_definitions(algorithm: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Metrics are read from the log by expressions with a group that is the number."""
    definitions = sequence(algorithm.get("MetricDefinitions"))
    yield from once(definitions, "Name", path)
    for index, definition in enumerate(definitions):
        regex = text(mapping(definition).get("Regex"))
        if regex is None:
            continue
        try:
            groups = re.compile(regex).groups
        except re.error as wrong:
            yield warning(f"{path}[{index}].Regex", f"{quoted(regex)} may be no regular expression: {wrong}")
            continue
        if not groups:
            told = "has no group, which is the number: put parentheses around it"
            yield warning(f"{path}[{index}].Regex", f"{quoted(regex)} {told}")


def _channels(job: Mapping[str, Any], path: str) -> Iterator[Finding]:
    channels = sequence(job.get("InputDataConfig"))
    yield from once(channels, "ChannelName", f"{path}.InputDataConfig")
    machines = mapping(job.get("ResourceConfig"))
    groups = [mapping(group).get("InstanceGroupName") for group in sequence(machines.get("InstanceGroups"))]
    for index, channel in enumerate(channels):
        where = f"{path}.InputDataConfig[{index}].DataSource.S3DataSource"
        source = mapping(pick(channel, "DataSource", "S3DataSource"))
        if machines.get("InstanceCount") == 1 and source.get("S3DataDistributionType") == "ShardedByS3Key":
            told = "ShardedByS3Key with one host is the same as FullyReplicated: raise InstanceCount"
            yield warning(f"{where}.S3DataDistributionType", told)
        mode = mapping(channel).get("InputMode", pick(job, "AlgorithmSpecification", "TrainingInputMode"))
        if source.get("S3DataType") == "AugmentedManifestFile" and mode == "FastFile":
            yield error(
                f"{where}.S3DataType", "FastFile reads no AugmentedManifestFile: take Pipe or File as InputMode"
            )
        for name in sequence(source.get("InstanceGroupNames")):
            if isinstance(name, str) and name not in groups:
                known = ", ".join(repr(group) for group in groups) or "the job has none"
                yield error(f"{where}.InstanceGroupNames", f"there is no instance group {name!r}: {known}")


def _machines(given: Mapping[str, Any], path: str) -> Iterator[Finding]:
    groups = given.get("InstanceGroups")
    plain = [name for name in ("InstanceType", "InstanceCount") if name in given]
    if groups and plain:
        yield error(f"{path}.{plain[0]}", "InstanceGroups say types and counts: leave this out, or the groups")
    elif not groups and "InstancePreferences" not in given:
        for name in ("InstanceType", "InstanceCount"):
            if name not in given:
                yield error(f"{path}.{name}", "a value is required, unless there are InstanceGroups")
    if given.get("InstanceCount") == 0:
        yield error(f"{path}.InstanceCount", "0 is out of range: at least 1")
    yield from once(sequence(groups), "InstanceGroupName", f"{path}.InstanceGroups")
    for index, group in enumerate(sequence(groups)):
        if mapping(group).get("InstanceCount") == 0:
            yield error(f"{path}.InstanceGroups[{index}].InstanceCount", "0 is out of range: at least 1")


def spot(job: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Spot training waits as long as it runs at least; other training does not wait."""
    wanted, stop = job.get("EnableManagedSpotTraining"), mapping(job.get("StoppingCondition"))
    where = f"{path}.StoppingCondition.MaxWaitTimeInSeconds"
    wait = stop.get("MaxWaitTimeInSeconds")
    if wanted is True and wait is None:
        yield error(where, "a value is required with EnableManagedSpotTraining: at least MaxRuntimeInSeconds")
    elif wanted in (None, False) and wait is not None:
        yield error(where, "only spot training waits: leave it out, or set EnableManagedSpotTraining")
    elif wanted is True:
        run = number(stop.get("MaxRuntimeInSeconds", TRAINING_SECONDS_DEFAULT))
        if run is not None and (number(wait) or run) < run:
            told = f"{wait} seconds are less than MaxRuntimeInSeconds, {run:g}"
            yield error(where, f"{told}: the wait is counted from the start, so give at least that")
    if wanted is True and "CheckpointConfig" not in job:
        told = "spot training without checkpoints begins anew after each interruption"
        yield warning(f"{path}.CheckpointConfig", told)
