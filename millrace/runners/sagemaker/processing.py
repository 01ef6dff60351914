"""One processing job in containers, as the service runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.errors import UnsupportedError
from millrace.runners.sagemaker.containers import (
    Host,
    Input,
    Job,
    Outcome,
    Watch,
    machine_failures,
    open_hosts,
    run_hosts,
)
from millrace.runners.sagemaker.contract import (
    Group,
    as_json,
    base_environment,
    host_names,
    machines,
    now,
    resource_config,
)
from millrace.runners.sagemaker.outputs import read_text, upload_tree
from millrace.runners.sagemaker.place import Ended, Place
from millrace.runners.sagemaker.staging import ServiceError, deal, find_items
from millrace.runners.sagemaker.unsupported import processing_problems

__all__ = ["run_processing"]

_CONFIG = "/opt/ml/config"
_ROOT = "/opt/ml/processing/"
_TOLD = 1024
"""Bytes of a message that the service keeps."""
_DAY = 86_400


@dataclass
class _Running:
    """A job on its way."""

    place: Place
    name: str
    arguments: Mapping[str, Any]
    hosts: Mapping[str, Group]
    created: str = field(default_factory=now)
    notes: list[str] = field(default_factory=list)
    logs: dict[str, Path] = field(default_factory=dict)

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """What it shall leave."""
        return list(self.arguments.get("ProcessingOutputConfig", {}).get("Outputs", ()))

    @property
    def seconds(self) -> float:
        """How long it may run."""
        return float(self.arguments.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", _DAY))


def run_processing(
    place: Place,
    job_name: str,
    arguments: Mapping[str, Any],
    *,
    watch: Watch | None = None,
    stop: threading.Event | None = None,
) -> Ended:
    """Run a processing job to its end.

    Args:
        place: Where it runs.
        job_name: Its name, that of no other job of the rehearsal.
        arguments: A CreateProcessingJob request without open expressions.
        watch: Called with a host and a line of its log while it runs, in threads of the hosts.
        stop: Stops the job when it is set.

    Raises:
        TaskFailedError: When the rehearsal was stopped, or this machine failed.
        UnsupportedError: When the request has parts that can't be rehearsed.
    """
    if problems := processing_problems(arguments):
        raise UnsupportedError(f"{job_name} can't be rehearsed: " + "; ".join(problems))
    cluster = arguments["ProcessingResources"]["ClusterConfig"]
    group = Group("homogeneousCluster", str(cluster["InstanceType"]), int(cluster.get("InstanceCount", 1)))
    running = _Running(place, job_name, arguments, host_names([group]))
    running.notes.append(machines([group]))
    with machine_failures():
        folder = place.logs(job_name)
        running.logs |= {host: folder / f"{host}.log" for host in running.hosts}
        try:
            return _run(running, watch, stop)
        except ServiceError as error:
            return _ended(running, "Failed", str(error), "")


def _run(running: _Running, watch: Watch | None, stop: threading.Event | None) -> Ended:
    place = running.place
    asked = running.arguments["AppSpecification"]
    isolated = bool(running.arguments.get("NetworkConfig", {}).get("EnableNetworkIsolation"))
    job = Job(
        name=running.name,
        image=asked["ImageUri"],
        entrypoint=asked.get("ContainerEntrypoint", ()),
        arguments=asked.get("ContainerArguments", ()),
        environment={**base_environment(place, isolated=isolated), **running.arguments.get("Environment", {})},
        isolated=isolated,
    )
    with open_hosts(place, job, _hosts(running)) as containers:
        outcome = run_hosts(
            place, containers, running.logs, watch, stop=stop, deadline=time.monotonic() + running.seconds
        )
        message = b"".join(read_text(place, one, "/opt/ml/output/message", _TOLD) for one in containers)[:_TOLD]
        done = outcome.cause == "ended" and outcome.first_failure() is None
        lost = _upload(running, containers, done=done)
    if done and lost:
        return _ended(running, "Failed", _loss(lost), "")
    return _result(running, outcome, message)


def _upload(running: _Running, containers: Sequence[str], *, done: bool) -> dict[str, list[str]]:
    """Put what the hosts have left into the store.

    Returns:
        Objects that were written with different contents, and which outputs of which hosts did.
    """
    written: dict[str, dict[str, str]] = {}
    for output in running.outputs:
        target = output.get("S3Output")
        if not target or output.get("AppManaged") or not (done or target.get("S3UploadMode") == "Continuous"):
            continue
        for host, container in zip(running.hosts, containers, strict=True):
            uploaded = upload_tree(running.place, container, target["LocalPath"], target["S3Uri"])
            running.notes += [f"{link} is a symbolic link: the service uploads none" for link in uploaded.links]
            for uri, digest in uploaded.digests.items():
                written.setdefault(uri, {})[f"{output['OutputName']} of {host}"] = digest
    return {uri: list(by) for uri, by in written.items() if len(set(by.values())) > 1}


def _loss(lost: Mapping[str, Sequence[str]]) -> str:
    """Why a job fails here that the service would call completed."""
    uri, writers = next(iter(lost.items()))
    more = f" (and {len(lost) - 1} more such objects)" if len(lost) > 1 else ""
    return (
        f"{uri} was written with different contents by the outputs {', '.join(writers)}{more}: the service keeps the "
        "last one and loses the others without a word. Name files by what is in them, so that hosts' names differ"
    )


def _hosts(running: _Running) -> list[Host]:
    inputs: dict[str, list[Input]] = {host: [] for host in running.hosts}
    folders = [f"{_ROOT}{kind}" for kind in ("input", "output")]
    for given in running.arguments.get("ProcessingInputs", ()):
        source, name = given["S3Input"], given["InputName"]
        _below_root(source["LocalPath"], f"the input {name!r}")
        items = find_items(running.place, source["S3Uri"], source.get("S3DataType", "S3Prefix"))
        shares = deal(
            items, len(inputs), source.get("S3DataDistributionType") or "FullyReplicated", f"the input {name!r}"
        )
        for host, share in zip(inputs, shares, strict=True):
            inputs[host].append(Input(source["LocalPath"], share))
    for output in running.outputs:
        if "S3Output" in output:
            _below_root(output["S3Output"]["LocalPath"], f"the output {output['OutputName']!r}")
            folders.append(output["S3Output"]["LocalPath"])
    config = {
        "ProcessingJobArn": running.place.arn("processing-job", running.name),
        "ProcessingJobName": running.name,
        **running.arguments,
    }
    return [
        Host(
            name=host,
            files={
                f"{_CONFIG}/resourceconfig.json": resource_config(host, running.hosts),
                f"{_CONFIG}/processingjobconfig.json": as_json(config),
            },
            inputs=taken,
            folders=[*folders, "/opt/ml/output"],
        )
        for host, taken in inputs.items()
    ]


def _below_root(path: str, what: str) -> None:
    if not path.startswith(_ROOT) or ".." in path.split("/"):
        raise ServiceError(f"ValidationException: the LocalPath {path!r} of {what} must begin with {_ROOT}")


def _result(running: _Running, outcome: Outcome, message: bytes) -> Ended:
    try:
        told = message.decode()
    except UnicodeDecodeError as error:
        if error.end < len(message) - 3:  # more than a character that the limit has cut
            return _ended(running, "Failed", "ClientError: /opt/ml/output/message is not UTF-8", "")
        told = message.decode(errors="ignore")
    failed = outcome.first_failure()
    if outcome.cause == "stopped":
        return _ended(running, "Stopped", "the job was stopped", told)
    if outcome.cause == "late":
        return _ended(running, "Stopped", f"it ran longer than MaxRuntimeInSeconds, {running.seconds:g} s", told)
    if failed is None:
        return _ended(running, "Completed", "", told)
    host, ended = list(running.hosts)[failed], outcome.exits[failed]
    if ended.out_of_memory:
        return _ended(running, "Failed", f"ClientError: this machine's memory ran out on {host}", told)
    why = f"AlgorithmError: {told or 'see the log'}, exit code: {ended.code}"
    return _ended(running, "Failed", f"{why} ({host})" if len(running.hosts) > 1 else why, told)


def _ended(running: _Running, state: Any, reason: str, message: str) -> Ended:
    arguments = running.arguments
    told = {"ExitMessage": message} if message else {}
    failure = {"FailureReason": reason} if state == "Failed" else {}
    return Ended(
        state=state,
        reason=reason,
        properties={
            **arguments,
            "ProcessingInputs": {given["InputName"]: given for given in arguments.get("ProcessingInputs", ())},
            "ProcessingOutputConfig": {
                **arguments.get("ProcessingOutputConfig", {}),
                "Outputs": {output["OutputName"]: output for output in running.outputs},
            },
            "ProcessingJobName": running.name,
            "ProcessingJobArn": running.place.arn("processing-job", running.name),
            "ProcessingJobStatus": state,
            **told,
            **failure,
            "CreationTime": running.created,
            "ProcessingStartTime": running.created,
            "ProcessingEndTime": now(),
            "LastModifiedTime": now(),
        },
        logs=tuple(running.logs.values()),
        notes=tuple(running.notes),
    )
