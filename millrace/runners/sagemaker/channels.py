"""What the hosts of a training job find below /opt/ml/input, and the folders that they write to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millrace.runners.sagemaker.containers import Host, Input
from millrace.runners.sagemaker.contract import Group, as_json, resource_config
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.staging import Item, ServiceError, deal, find_items, list_items

__all__ = ["checkpoint_path", "folders_of", "groups_of", "training_hosts"]

_INPUT = "/opt/ml/input"
_CHECKPOINTS = "/opt/ml/checkpoints"
_TENSORBOARD = "/opt/ml/output/tensorboard"
_TENSORS = "/opt/ml/output/tensors"


def groups_of(arguments: Mapping[str, Any]) -> list[Group]:
    """The hosts that a request asks for."""
    asked = arguments["ResourceConfig"]
    if asked.get("InstanceGroups"):
        return [
            Group(each["InstanceGroupName"], each["InstanceType"], int(each["InstanceCount"]))
            for each in asked["InstanceGroups"]
        ]
    return [Group("homogeneousCluster", str(asked["InstanceType"]), int(asked.get("InstanceCount", 1)))]


def checkpoint_path(arguments: Mapping[str, Any]) -> str | None:
    """Where checkpoints are kept in a container; None when they are not."""
    asked = arguments.get("CheckpointConfig")
    return str(asked.get("LocalPath") or _CHECKPOINTS) if asked else None


def folders_of(arguments: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Folders that are uploaded as they are: their place below the job's name, and their URI, by path."""
    found = {}
    for key, default, name in (
        ("TensorBoardOutputConfig", _TENSORBOARD, "tensorboard-output"),
        ("DebugHookConfig", _TENSORS, "debug-output"),
    ):
        if asked := arguments.get(key):
            found[str(asked.get("LocalPath") or default)] = (name, str(asked["S3OutputPath"]).rstrip("/"))
    return found


def training_hosts(place: Place, arguments: Mapping[str, Any], hosts: Mapping[str, Group]) -> list[Host]:
    """What each host finds.

    Raises:
        ServiceError: When the service would refuse the job.
    """
    inputs, configs = _channels(place, arguments, hosts)
    folders = ["/opt/ml/model", "/opt/ml/output/data", f"{_INPUT}/data", *folders_of(arguments)]
    checkpoints = checkpoint_path(arguments)
    kept: Sequence[Item] = ()
    if checkpoints:
        kept = list_items(place, f"{arguments['CheckpointConfig']['S3Uri'].rstrip('/')}/")
        folders.append(checkpoints)
    hyperparameters = arguments.get("HyperParameters", {})
    if wrong := sorted(name for name, value in hyperparameters.items() if not isinstance(value, str)):
        raise ServiceError(f"ValidationException: HyperParameters must be texts, and these are not: {', '.join(wrong)}")
    hook = arguments.get("DebugHookConfig")
    more = {f"{_INPUT}/config/debughookconfig.json": as_json({"LocalPath": _TENSORS, **hook})} if hook else {}
    return [
        Host(
            name=host,
            files={
                f"{_INPUT}/config/hyperparameters.json": as_json(hyperparameters),
                f"{_INPUT}/config/resourceconfig.json": resource_config(host, hosts),
                f"{_INPUT}/config/inputdataconfig.json": as_json(configs[host]),
                **more,
            },
            inputs=[*inputs[host], *([Input(checkpoints, kept)] if checkpoints else [])],
            folders=folders,
        )
        for host in hosts
    ]


def _channels(
    place: Place, arguments: Mapping[str, Any], hosts: Mapping[str, Group]
) -> tuple[dict[str, list[Input]], dict[str, dict[str, Any]]]:
    """Folders with objects, and what inputdataconfig.json says about them, for each host."""
    inputs: dict[str, list[Input]] = {host: [] for host in hosts}
    configs: dict[str, dict[str, Any]] = {host: {} for host in hosts}
    for channel in arguments.get("InputDataConfig", ()):
        name, source = channel["ChannelName"], channel["DataSource"]["S3DataSource"]
        wanted = source.get("InstanceGroupNames") or [group.name for group in hosts.values()]
        takers = [host for host, group in hosts.items() if group.name in wanted]
        distribution = source.get("S3DataDistributionType") or "FullyReplicated"
        try:
            items = find_items(place, source["S3Uri"], source.get("S3DataType", "S3Prefix"))
        except ServiceError as error:
            raise ServiceError(f"ValidationException: the channel {name!r}: {error}") from None
        config = {
            "ContentType": channel.get("ContentType"),
            "TrainingInputMode": channel.get("InputMode") or arguments["AlgorithmSpecification"]["TrainingInputMode"],
            "S3DistributionType": distribution,
            "RecordWrapperType": channel.get("RecordWrapperType") or "None",
        }
        for host, share in zip(takers, deal(items, len(takers), distribution, f"the channel {name!r}"), strict=True):
            inputs[host].append(Input(f"{_INPUT}/data/{name}", share))
            configs[host][name] = {key: value for key, value in config.items() if value is not None}
    return inputs, configs
