"""What is refused before anything is compiled: settings that nothing would follow, and tasks that could not run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from millrace.compilers.refusals import LOCAL, check_earlier, check_sources, check_work, locations
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.hosting import check_unserved
from millrace.compilers.sagemaker.processing import is_sharded
from millrace.compilers.sagemaker.searches import Numbers, read_search
from millrace.compilers.sagemaker.shards import made_shards
from millrace.errors import ConfigError, UnsupportedError, did_you_mean
from millrace.specs import Task
from millrace.targets.sagemaker import SageMaker

__all__ = ["check_pipeline"]

_IGNORED = {"transform": ("volume_gib", "timeout_minutes"), "registry": ("instance", "volume_gib", "timeout_minutes")}
"""Settings that a kind of job has no place for."""


def check_pipeline(context: Compiling) -> None:
    """Check settings against the tasks that there are, and tasks against what jobs can do.

    Raises:
        ConfigError: For settings of what is not there.
        UnsupportedError: For what a job can't do, with a way out.
    """
    _check_settings(context)
    check_sources(context.spec)
    for task in context.spec.tasks:
        _check_job(task, context)
        _check_outside(task, context)
        _check_hosts(task, context)


def _check_settings(context: Compiling) -> None:
    target = context.target
    check_unserved(target)
    _check_unread(target)
    names = [task.name for task in context.spec.tasks]
    for name in target.tasks:
        if name not in names:
            raise ConfigError(f"target.tasks.{name}: unknown task: {did_you_mean(name, names)}")
    kinds = {task.name: context.kind(task) for task in context.spec.tasks}
    trained = [task for task in context.spec.tasks if kinds[task.name] in ("training", "tuning")]
    ports = {port for task in trained for port in task.inputs}
    for name in target.training.channels:
        if name not in ports:
            raise ConfigError(f"target.training.channels.{name}: no input of a training: {did_you_mean(name, ports)}")
    ranges = set(_ranges(task for task in trained if kinds[task.name] == "tuning"))
    for name in target.tuning.scaling:
        if name not in ranges:
            raise ConfigError(
                f"target.tuning.scaling.{name}: no range of numbers is searched by that name: "
                f"{did_you_mean(name, ranges)}"
            )


def _check_unread(target: SageMaker) -> None:
    tuning = target.tuning
    if tuning.kind == "task":
        for name in ("strategy", "early_stopping", "scaling", "warm_start", "seed"):
            if getattr(tuning, name) not in (None, {}):
                raise UnsupportedError(
                    f"target.tuning.{name}: with target.tuning.kind=task no tuning job would follow it: leave it out, "
                    "or set kind=job; the task has its own sampler, pruner and seed"
                )
    days = SageMaker.model_fields["cache_days"].default
    caching = target.cache or target.job.cache or any(own.cache for own in target.tasks.values())
    if target.cache_days != days and not caching:
        raise UnsupportedError(
            f"target.cache_days={target.cache_days}: with target.cache=false nothing is kept: leave it out, or set "
            "target.cache=true"
        )


def _ranges(tasks: Iterator[Task]) -> Iterator[str]:
    for task in tasks:
        yield from (name for name, values in read_search(task).space.items() if isinstance(values, Numbers))


def _check_job(task: Task, context: Compiling) -> None:
    own, kind = context.target.tasks.get(task.name), context.kind(task)
    registered = kind == "serving" and context.target.serving.kind == "registry"
    way = "have it served, target.serving.kind=endpoint" if registered else f"set target.{kind}.kind=task"
    for name in _IGNORED.get("registry" if registered else kind, ()):
        if own is not None and getattr(own, name) is not None:
            what = (
                "a model that is registered only has no machine" if registered else f"a {kind} job has no such setting"
            )
            raise UnsupportedError(f"target.tasks.{task.name}.{name}: {what}: leave it out, or {way}")


def _copy(place: str) -> str:
    """The command that copies a file or folder of this machine to S3."""
    local = place.removeprefix("file://")
    return f"aws s3 {'cp' if _is_file(local) else 'sync'} {shlex.quote(local)} {shlex.quote(_copied(place))}"


def _copied(place: str) -> str:
    local = place.removeprefix("file://")
    return f"s3://BUCKET/PREFIX/{Path(local).name}" if _is_file(local) else "s3://BUCKET/PREFIX"


def _is_file(place: str) -> bool:
    """Whether a path names a file; by its ending where it is not on this machine."""
    path = Path(place)
    return path.is_file() or (path.suffix != "" and not path.is_dir())


def _check_outside(task: Task, context: Compiling) -> None:
    component = context.component(task)
    check_earlier(task.name, component, task.parameters)
    if "training" in component.delegates and context.kind(task) != "training":
        check_work(task, component, task.distribution)
    places = dict(locations(component, task.parameters))
    plain = {name: task.parameters.get(name) for name in component.uncached_when}
    for name, value in {**plain, **places}.items():
        if not isinstance(value, str) or value.startswith("arn:"):
            continue
        place = name in places
        where = f"{task.name}.{name}={value}"
        if LOCAL.match(value) or (place and "://" not in value):
            if "." in name:
                raise UnsupportedError(
                    f"{where}: a path of this machine, which no job of SageMaker's can read: upload it to S3 and give "
                    f"{task.name}.{name}=s3://BUCKET/KEY and its digest as sha256"
                )
            raise UnsupportedError(
                f"{where}: a path of this machine, which no job of SageMaker's can read: copy it to S3 "
                f"({_copy(value)}) and give {task.name}.{name}={_copied(value)}"
            )
        if place and not value.startswith("s3://"):
            raise UnsupportedError(
                f"{where}: the role of a job of SageMaker's opens s3:// only: copy it there and give "
                f"{task.name}.{name}=s3://BUCKET/PREFIX"
            )
        if context.target.network.isolate and "://" in value:
            raise UnsupportedError(
                f"target.network.isolate=true: {where} is read by the task itself, which an isolated job can't: "
                "set it to false and use target.network.subnets, or make the data by a task"
            )


def _check_hosts(task: Task, context: Compiling) -> None:
    kind, asked = context.kind(task), task.distribution
    shares = 1 if task.for_each is None else task.for_each.shares
    if asked.hosts * asked.processes > 1 and kind not in ("training", "tuning"):
        raise UnsupportedError(
            f"tasks.{task.name}: distribution asks for {asked.hosts} hosts with {asked.processes} processes each, "
            "which jobs of components that delegate training have: use Distribution(hosts=1, processes=1) here"
        )
    if shares == 1:
        return
    if kind == "transform":
        return  # its machines divide the objects
    if kind != "processing":
        raise UnsupportedError(
            f"tasks.{task.name}: {shares} shares; a {kind} job does its work as a whole: leave `shares` out"
        )
    if context.component(task).metrics:
        raise UnsupportedError(
            f"tasks.{task.name}: {shares} shares, each of which would write the same metrics.json; report metrics by a "
            "later task"
        )
    for port in context.component(task).inputs:
        if is_sharded(port):
            for output in task.inputs.get(port.name, ()):
                _check_shards(task, shares, context.spec.task(output.task))


def _check_shards(task: Task, shares: int, producer: Task) -> None:
    """Each host needs a shard of its own: SageMaker ends a job of which one host gets none."""
    made = made_shards(producer.parameters)
    if made is not None and shares > made.most:
        raise UnsupportedError(
            f"tasks.{task.name}: {shares} hosts for fewer shards ({made.told}): each host needs one of its own: raise "
            f"{producer.name}.shards, or have fewer hosts"
        )
