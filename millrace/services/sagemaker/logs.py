"""Logs of a step's job, as CloudWatch has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from millrace.errors import ConfigError, did_you_mean
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.links import log_link
from millrace.services.sagemaker.session import Session
from millrace.services.sagemaker.status import RunStatus, StepStatus

__all__ = ["Lines", "follow_log", "read_log", "step_of"]

_GROUPS = {
    "processing-job": "/aws/sagemaker/ProcessingJobs",
    "training-job": "/aws/sagemaker/TrainingJobs",
    "transform-job": "/aws/sagemaker/TransformJobs",
}
_MOST_STREAMS = 50
_WHY = {"cached": "its result is an earlier run's", "unknown": "what answers here does not tell its job"}


class Lines(NamedTuple):
    """The log of one container."""

    stream: str
    lines: tuple[str, ...]


def step_of(status: RunStatus, asked: str) -> tuple[StepStatus, str]:
    """The step that a log is asked of, and its trial: `train`, `tune`, `tune/JOB` or `tune/3`.

    Raises:
        ConfigError: When the execution has no such step.
    """
    name, _, trial = asked.partition("/")
    name = name.replace("_", "-")
    for step in status.steps:
        if step.name == name:
            return step, trial
    raise ConfigError(
        f"logs={asked}: the run has no such step: {did_you_mean(name, (step.name for step in status.steps))}"
    )


def read_log(session: Session, step: StepStatus, trial: str = "", last: int | None = None) -> list[Lines]:
    """The logs of a step's containers, one after the other; of a tuning, those of its best job or the one named.

    Args:
        session: Who asks.
        step: The step.
        trial: Of a tuning: a training job's name, or its number in the order of their starts.
        last: Only so many lines of each container.

    Raises:
        ConfigError: When there is no log, with the reason.
        ServiceError: When AWS can't be reached or refuses.
    """
    group, prefix = _where(session, step, trial)
    if trial and step.kind != "Tuning" and ":hyper-parameter-tuning-job/" not in step.arn:
        raise ConfigError(f"logs={step.name}/{trial}: only a tuning has several jobs: logs={step.name}")
    streams = _streams(session, group, prefix)
    if not streams:
        raise ConfigError(
            f"there is no log of step {step.name!r} yet: its containers have not started or have written nothing; "
            f"see {log_link(session.region, group, prefix)}"
        )
    return [Lines(stream, tuple(_lines(session, group, stream, last))) for stream in streams]


def follow_log(
    session: Session, look: Callable[[], RunStatus], asked: str, write: Callable[[str], object]
) -> RunStatus:
    """Write the lines of a step's log as they come, until the step has ended.

    Args:
        session: Who asks.
        look: Tells how the execution goes.
        asked: The step, as for `step_of`.
        write: Called with each line; with several containers the line begins with the name of its host.

    Raises:
        ConfigError: When the execution has no such step, or it runs no container.
        ServiceError: When AWS can't be reached or refuses.
    """
    tokens: dict[str, str] = {}
    while True:
        status = look()
        step, trial = step_of(status, asked)
        ended = status.over or step.state not in ("pending", "running")
        if step.arn:
            group, prefix = _where(session, step, trial)
            streams = _streams(session, group, prefix)
            for stream in streams:
                host = f"{stream.rpartition('/')[2].rpartition('-')[0]}: " if len(streams) > 1 else ""
                for line in _lines(session, group, stream, None, tokens):
                    write(f"{host}{line}")
        elif ended:
            _where(session, step, trial)  # says why there is none
        if ended:
            return status
        time.sleep(session.target.session.poll_seconds)


def _where(session: Session, step: StepStatus, trial: str) -> tuple[str, str]:
    """Log group of a step's job, and what its streams begin with."""
    kind, _, name = step.arn.rpartition(":")[2].partition("/")
    if kind == "hyper-parameter-tuning-job":
        return _GROUPS["training-job"], f"{_trial(session, name, trial)}/"
    if kind == "endpoint":
        return f"/aws/sagemaker/Endpoints/{name}", ""
    if kind in _GROUPS:
        return _GROUPS[kind], f"{name}/"
    if not step.arn:
        why = _WHY.get(step.state, f"it is {step.state} and has no job")
        raise ConfigError(f"there is no log of step {step.name!r}: {why}")
    raise ConfigError(f"there is no log of step {step.name!r}: a step of type {step.kind} runs no container")


def _trial(session: Session, tuning: str, asked: str) -> str:
    """Name of a training job of a tuning: the best one when none is asked for."""
    if not asked:
        told = session.call("sagemaker", "describe_hyper_parameter_tuning_job", HyperParameterTuningJobName=tuning)
        best = (told.get("BestTrainingJob") or {}).get("TrainingJobName")
        if best:
            return str(best)
    listed = session.pages(
        "sagemaker",
        "list_training_jobs_for_hyper_parameter_tuning_job",
        "TrainingJobSummaries",
        HyperParameterTuningJobName=tuning,
        SortBy="CreationTime",
        SortOrder="Ascending",
    )
    names = [str(item["TrainingJobName"]) for item in listed]
    if not names:
        raise ConfigError(f"tuning job {tuning} has started no training job yet")
    if asked.isdecimal() and 1 <= int(asked) <= len(names):
        return names[int(asked) - 1]
    if asked in names:
        return asked
    if not asked:
        return names[-1]
    raise ConfigError(
        f"logs: tuning job {tuning} has no training job {asked!r}: give a number, 1 to {len(names)}, or a name: "
        f"{did_you_mean(asked, names)}"
    )


def _streams(session: Session, group: str, prefix: str) -> list[str]:
    by_prefix = {"logStreamNamePrefix": prefix} if prefix else {}
    listed = session.pages("logs", "describe_log_streams", "logStreams", logGroupName=group, **by_prefix)
    try:
        return [str(item["logStreamName"]) for item in islice(listed, _MOST_STREAMS)]
    except ServiceError as error:
        if error.missing:
            return []
        raise


def _lines(
    session: Session, group: str, stream: str, last: int | None, tokens: dict[str, str] | None = None
) -> Iterator[str]:
    """Lines of a stream: the last ones, or all from the place on that `tokens` holds, which goes on with them."""
    kept = {} if tokens is None else tokens
    where: dict[str, Any] = {"logGroupName": group, "logStreamName": stream}
    if last is not None:
        page = session.call("logs", "get_log_events", **where, limit=last, startFromHead=False)
        yield from (str(event["message"]).rstrip("\n") for event in page["events"])
        return
    while True:
        more = {"nextToken": kept[stream]} if stream in kept else {}
        page = session.call("logs", "get_log_events", **where, startFromHead=True, **more)
        yield from (str(event["message"]).rstrip("\n") for event in page["events"])
        following = page.get("nextForwardToken")
        if following in (None, kept.get(stream)):
            return
        kept[stream] = str(following)
