"""One training job in containers, as the service runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from millrace.errors import UnsupportedError
from millrace.runners.sagemaker.channels import checkpoint_path, folders_of, groups_of, training_hosts
from millrace.runners.sagemaker.containers import Job, Outcome, Watch, machine_failures, open_hosts, run_hosts
from millrace.runners.sagemaker.contract import Group, base_environment, host_names, machines, now
from millrace.runners.sagemaker.metrics import LogMetrics
from millrace.runners.sagemaker.outputs import pack, read_text, upload_tree
from millrace.runners.sagemaker.place import Ended, Place
from millrace.runners.sagemaker.staging import ServiceError
from millrace.runners.sagemaker.unsupported import training_notes, training_problems

__all__ = ["run_training"]

_MODEL, _DATA = "/opt/ml/model", "/opt/ml/output/data"
_TOLD = 1024
"""Characters of a failure that the service keeps."""
_DAY = 86_400


@dataclass
class _Running:
    """A job on its way."""

    place: Place
    name: str
    arguments: Mapping[str, Any]
    hosts: Mapping[str, Group]
    metrics: LogMetrics
    watch: Watch | None
    stop: threading.Event | None
    created: str = field(default_factory=now)
    began: float = field(default_factory=time.monotonic)
    notes: list[str] = field(default_factory=list)
    logs: dict[str, Path] = field(default_factory=dict)
    model: str = ""
    """Where the model is, once it was uploaded."""

    @property
    def limit(self) -> tuple[float, str]:
        """How many seconds it may take, and which condition says so."""
        asked = self.arguments.get("StoppingCondition", {})
        found = [(float(asked.get("MaxRuntimeInSeconds", _DAY)), "MaxRuntimeInSeconds")]
        if self.spot and "MaxWaitTimeInSeconds" in asked:
            found.append((float(asked["MaxWaitTimeInSeconds"]), "MaxWaitTimeInSeconds"))
        return min(found)

    @property
    def spot(self) -> bool:
        """Whether its hosts may be taken away."""
        return bool(self.arguments.get("EnableManagedSpotTraining"))


def run_training(
    place: Place,
    job_name: str,
    arguments: Mapping[str, Any],
    *,
    watch: Watch | None = None,
    stop: threading.Event | None = None,
    interrupt_after: float | None = None,
) -> Ended:
    """Run a training job to its end.

    Args:
        place: Where it runs.
        job_name: Its name, that of no other job of the rehearsal.
        arguments: A CreateTrainingJob request without open expressions.
        watch: Called with a host and a line of its log while it runs, in threads of the hosts.
        stop: Stops the job when it is set, as early stopping does.
        interrupt_after: Seconds after which a spot interruption takes the hosts away, once; for jobs with managed spot.

    Raises:
        TaskFailedError: When the rehearsal was stopped, or this machine failed.
        UnsupportedError: When the request has parts that can't be rehearsed.
    """
    if problems := training_problems(arguments):
        raise UnsupportedError(f"{job_name} can't be rehearsed: " + "; ".join(problems))
    groups = groups_of(arguments)
    running = _Running(place, job_name, arguments, host_names(groups), LogMetrics(()), watch, stop)
    running.notes += [machines(groups), *training_notes(arguments)]
    if interrupt_after is not None and not running.spot:
        running.notes.append("it asks for no managed spot training, so it was not interrupted")
        interrupt_after = None
    with machine_failures():
        folder = place.logs(job_name)
        running.logs |= {host: folder / f"{host}.log" for host in running.hosts}
        try:
            running.metrics = LogMetrics(arguments["AlgorithmSpecification"].get("MetricDefinitions", ()))
            return _attempts(running, interrupt_after)
        except ServiceError as error:
            return _ended(running, "Failed", "Failed", str(error))


def _attempts(running: _Running, interrupt_after: float | None) -> Ended:
    """Run it, and once more after an interruption."""
    more = False
    while (ended := _attempt(running, interrupt_after, more=more)) is None:
        running.notes.append(f"interrupted after {interrupt_after:g} s as spot capacity is, and started again")
        interrupt_after, more = None, True
    return ended


def _attempt(running: _Running, interrupt_after: float | None, *, more: bool) -> Ended | None:
    """Run all hosts once; None when they were taken away."""
    place, arguments = running.place, running.arguments

    def line(host: str, text: str) -> None:
        running.metrics.line(text)
        if running.watch:
            running.watch(host, text)

    with open_hosts(place, _job(running), training_hosts(place, arguments, running.hosts)) as containers:
        started = time.monotonic()
        running.began = running.began if more else started
        outcome = run_hosts(
            place,
            containers,
            running.logs,
            line,
            stop=running.stop,
            deadline=running.began + running.limit[0],
            interrupt=None if interrupt_after is None else started + interrupt_after,
            more=more,
        )
        if local := checkpoint_path(arguments):
            for container in containers:
                _links(running, upload_tree(place, container, local, arguments["CheckpointConfig"]["S3Uri"]).links)
        if outcome.cause == "interrupted":
            return None
        if interrupt_after is not None:
            running.notes.append(f"it ended before it could be interrupted after {interrupt_after:g} s")
        failed = outcome.first_failure()
        _upload(running, containers, model=outcome.cause != "ended" or failed is None)
        told = "" if failed is None else _failure(place, containers[failed])
    return _result(running, outcome, told)


def _job(running: _Running) -> Job:
    place, arguments = running.place, running.arguments
    asked = arguments["AlgorithmSpecification"]
    isolated = bool(arguments.get("EnableNetworkIsolation"))
    entrypoint = asked.get("ContainerEntrypoint") or ()
    return Job(
        name=running.name,
        image=asked["TrainingImage"],
        entrypoint=entrypoint,
        arguments=asked.get("ContainerArguments") or (() if entrypoint else ("train",)),
        environment={
            **base_environment(place, isolated=isolated),
            "TRAINING_JOB_NAME": running.name,
            "TRAINING_JOB_ARN": place.arn("training-job", running.name),
            **arguments.get("Environment", {}),
        },
        isolated=isolated,
    )


def _failure(place: Place, container: str) -> str:
    return read_text(place, container, "/opt/ml/output/failure", 4 * _TOLD).decode(errors="replace")[:_TOLD].strip()


def _links(running: _Running, links: Sequence[str]) -> None:
    running.notes += [f"{link} is a symbolic link: the service uploads none" for link in links]


def _upload(running: _Running, containers: Sequence[str], *, model: bool) -> None:
    """Put what the hosts have left into the store: the model only when there is one."""
    place, output = running.place, running.arguments["OutputDataConfig"]
    base = f"{output['S3OutputPath'].rstrip('/')}/{running.name}/output"
    for path, (name, uri) in folders_of(running.arguments).items():
        for container in containers:
            _links(running, upload_tree(place, container, path, f"{uri}/{running.name}/{name}").links)
    if output.get("CompressionType") == "NONE":
        for container in containers:
            _links(running, upload_tree(place, container, _DATA, f"{base}/data").links)
            if model:
                _links(running, upload_tree(place, container, _MODEL, f"{base}/model").links)
        running.model = f"{base}/model/" if model else ""
        return
    twice = pack(place, containers, _DATA, f"{base}/output.tar.gz", always=False)
    if model:
        running.model = f"{base}/model.tar.gz"
        twice += pack(place, containers, _MODEL, running.model, always=True)
    running.notes += [f"more than one host left {name}: the first one's is kept" for name in twice]


def _result(running: _Running, outcome: Outcome, told: str) -> Ended:
    failed = outcome.first_failure()
    if outcome.cause == "stopped":
        return _ended(running, "Stopped", "Stopped", "the job was stopped")
    if outcome.cause == "late":
        seconds, condition = running.limit
        secondary = "MaxRuntimeExceeded" if condition == "MaxRuntimeInSeconds" else "MaxWaitTimeExceeded"
        return _ended(running, "Stopped", secondary, f"{secondary}: it ran longer than {condition}, {seconds:g} s")
    if failed is None:
        return _ended(running, "Completed", "Completed", "")
    host, ended = list(running.hosts)[failed], outcome.exits[failed]
    if ended.out_of_memory:
        return _ended(running, "Failed", "Failed", f"ClientError: this machine's memory ran out on {host}")
    why = f"AlgorithmError: {told or 'see the log'}, exit code: {ended.code}"
    return _ended(running, "Failed", "Failed", f"{why} ({host})" if len(running.hosts) > 1 else why)


def _ended(running: _Running, state: Literal["Completed", "Failed", "Stopped"], secondary: str, reason: str) -> Ended:
    arguments = running.arguments
    seconds = round(time.monotonic() - running.began)
    model = {"ModelArtifacts": {"S3ModelArtifacts": running.model}} if running.model else {}
    failure = {"FailureReason": reason} if state == "Failed" else {}
    return Ended(
        state=state,
        reason=reason,
        properties={
            **arguments,
            "TrainingJobName": running.name,
            "TrainingJobArn": running.place.arn("training-job", running.name),
            "TrainingJobStatus": state,
            "SecondaryStatus": secondary,
            **model,
            **failure,
            "FinalMetricDataList": running.metrics.final(),
            "CreationTime": running.created,
            "TrainingStartTime": running.created,
            "TrainingEndTime": now(),
            "LastModifiedTime": now(),
            "TrainingTimeInSeconds": seconds,
            "BillableTimeInSeconds": seconds,
        },
        logs=tuple(running.logs.values()),
        notes=tuple(running.notes),
    )
