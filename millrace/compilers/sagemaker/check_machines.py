"""Rules on the machines of jobs: their volumes, and how many there are for what is to be divided."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_values import references
from millrace.compilers.sagemaker.limits import VOLUME_GB
from millrace.compilers.sagemaker.machines import has_local_storage, local_gb
from millrace.compilers.sagemaker.shards import Shards, made_shards
from millrace.compilers.sagemaker.view import StepView, View, error, is_ours, mapping, number, pick, sequence
from millrace.compilers.sagemaker.walk import is_variable

__all__ = ["keyless", "shards", "volumes"]

_JOBS = ("Processing", "Training", "Tuning", "Transform")


def keyless(instances: Iterable[Any], path: str) -> Iterator[Finding]:
    """No key for machines with storage of their own.

    Args:
        instances: Their types.
        path: Of the key.
    """
    for instance in instances:
        if isinstance(instance, str) and has_local_storage(instance):
            told = "has storage of its own, which its hardware encrypts: leave the key out, or take another machine"
            yield error(path, f"{instance} {told}")
            return


def volumes(view: View) -> Iterator[Finding]:
    """Volumes have a size that there is, and a key only where they can have one."""
    for step in view.of_kind(*_JOBS):
        for given, path in _mappings(step.arguments, step.at()):
            instances = list(_instances(given))
            if "VolumeKmsKeyId" in given:
                yield from keyless(instances, f"{path}.VolumeKmsKeyId")
            if path.endswith((".ClusterConfig", ".ResourceConfig")):
                yield from _size(given, instances, step.kind == "Processing", f"{path}.VolumeSizeInGB")
    for step in view.of_kind("EndpointConfig"):
        if "KmsKeyId" in step.arguments:
            variants = ("ProductionVariants", "ShadowProductionVariants")
            served = [one for name in variants for one in sequence(step.arguments.get(name))]
            yield from keyless((mapping(one).get("InstanceType") for one in served), step.at("KmsKeyId"))


def _mappings(value: Any, path: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(value, Mapping) and not is_variable(value):
        yield value, path
        for name, item in value.items():
            yield from _mappings(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mappings(item, f"{path}[{index}]")


def _instances(given: Mapping[str, Any]) -> Iterator[Any]:
    for one in (given, *sequence(given.get("InstanceGroups")), *sequence(given.get("InstanceConfigs"))):
        if "InstanceType" in mapping(one):
            yield mapping(one)["InstanceType"]


def _size(given: Mapping[str, Any], instances: list[Any], fixed: bool, path: str) -> Iterator[Finding]:
    size = number(given.get("VolumeSizeInGB"))
    types = [one for one in instances if isinstance(one, str)]
    if fixed:  # of processing jobs the service's own model says the rest
        for one in types:
            local = local_gb(one)
            if size is not None and local is not None and size > local:
                yield error(path, f"{size:g} GB; {one} has {local} GB of its own: a processing job can't have more")
        return
    if not types or all(has_local_storage(one) for one in types):
        return
    if "VolumeSizeInGB" not in given:
        yield error(path, f"a value is required: {types[0]} has no storage but its volume")
    elif size is not None and not 1 <= size <= VOLUME_GB:
        yield error(path, f"{size:g} is out of range: 1 to {VOLUME_GB}")


def shards(view: View) -> Iterator[Finding]:
    """Each host of a job gets a shard, where a step of ours makes them."""
    for step in view.of_kind("Processing"):
        hosts = number(pick(step.arguments, "ProcessingResources", "ClusterConfig", "InstanceCount")) or 0
        for item in sequence(step.arguments.get("ProcessingInputs")):
            if pick(item, "S3Input", "S3DataDistributionType") != "ShardedByS3Key":
                continue
            for name in references(pick(item, "S3Input", "S3Uri")):
                found = _shards_of(view.steps[name]) if name in view.steps else None
                if found is not None and hosts > found.most:
                    path = step.at("ProcessingResources", "ClusterConfig", "InstanceCount")
                    told = f"{hosts:g} hosts for fewer shards of step {name!r} ({found.told})"
                    yield error(path, f"{told}: each host needs one of its own")


def _shards_of(step: StepView) -> Shards | None:
    """How many shards a step of ours makes; None where nobody knows."""
    words = sequence(pick(step.arguments, "AppSpecification", "ContainerArguments"))
    if not is_ours(step) or "--parameters" not in words:
        return None
    if any("shards" in str(word) for word in words if isinstance(word, Mapping)):
        return None  # their number stays open
    text = ""
    for word in words[words.index("--parameters") + 1 :]:
        if not isinstance(word, str) or word.startswith("--"):
            break
        text += word
    try:
        parameters = json.loads(text)
    except ValueError:
        return None
    return made_shards(parameters) if isinstance(parameters, dict) else None
