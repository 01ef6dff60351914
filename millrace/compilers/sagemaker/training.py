"""Training steps: a component that delegates training, by its own image."""

from __future__ import annotations

from typing import Any

from millrace.compilers.refusals import check_work
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import Step, get
from millrace.compilers.sagemaker.names import step_name
from millrace.compilers.sagemaker.searches import is_best_of, searched_names
from millrace.compilers.sagemaker.training_job import (
    TrainingJob,
    algorithm,
    check_hyperparameters,
    hyperparameters,
    job_fields,
    metric_definition,
)
from millrace.errors import UnsupportedError
from millrace.runtime.sagemaker.training import TEXTS
from millrace.specs import Logs, Task

__all__ = ["training_step"]


def training_step(task: Task, context: Compiling) -> Step:
    """A Training step.

    Raises:
        UnsupportedError: For more than a training job takes, and settings that can't be together.
    """
    component = context.component(task)
    total = sum(group.count for group in context.target.training.groups) or task.distribution.hosts
    check_work(task, component, task.distribution.model_copy(update={"hosts": total}))
    studies = {port: outputs for port, outputs in task.inputs.items() if is_best_of(outputs, context)}
    inputs = {port: outputs for port, outputs in task.inputs.items() if port not in studies}
    job = TrainingJob(task, component, inputs)
    found, texts = hyperparameters(task.parameters, context.opened(task), context)
    for outputs in studies.values():
        study = context.spec.task(outputs[0].task)
        for name in searched_names(study):
            path = f"Steps.{step_name(study.name)}.BestTrainingJob.TunedHyperParameters['{name}']"
            found[name] = get(path)
            texts = [text for text in texts if text != name]
    check_hyperparameters(f"tasks.{task.name}", f"{task.name}", found)
    fields = job_fields(job, context)
    if texts:
        fields["Environment"] = dict(sorted({**fields["Environment"], TEXTS: ",".join(texts)}.items()))
    _set_machines(task, context, fields)
    request = {
        "AlgorithmSpecification": algorithm(job, context, [metric_definition(one.name) for one in component.metrics]),
        **({"HyperParameters": dict(sorted(found.items()))} if found else {}),
        **fields,
        **_watched(task, context),
        **({"Tags": context.tags} if context.target.tags else {}),
    }
    return {
        "Name": step_name(task.name),
        "Type": "Training",
        "Arguments": request,
        **context.depends_on(task),
        **context.cache(task),
        **context.retries(task),
    }


def _set_machines(task: Task, context: Compiling, fields: dict[str, Any]) -> None:
    """Machines of several types, and machines that are kept."""
    training, resources = context.target.training, fields["ResourceConfig"]
    if training.warm_pool_minutes:
        refused = "spot" if training.spot else "groups" if training.groups else None
        if refused:
            raise UnsupportedError(
                f"target.training.warm_pool_minutes={training.warm_pool_minutes}: SageMaker keeps no machines with "
                f"target.training.{refused}: leave one of them out"
            )
        resources["KeepAlivePeriodInSeconds"] = training.warm_pool_minutes * 60
    if not training.groups:
        return
    own = context.target.tasks.get(task.name)
    if own is not None and own.instance is not None:
        raise UnsupportedError(
            f"target.tasks.{task.name}.instance={own.instance}: target.training.groups names machines of "
            "trainings: leave one of them out"
        )
    names = [group.name for group in training.groups]
    if len(set(names)) < len(names):
        raise UnsupportedError(f"target.training.groups: two groups have one name, given {', '.join(names)}")
    total = sum(group.count for group in training.groups)
    if task.distribution.hosts not in (1, total):
        raise UnsupportedError(
            f"target.training.groups: {total} machines in all, but tasks.{task.name}.distribution.hosts is "
            f"{task.distribution.hosts}: make them equal"
        )
    for name in ("InstanceType", "InstanceCount", "VolumeKmsKeyId"):
        resources.pop(name, None)
    resources["InstanceGroups"] = [
        {"InstanceType": group.instance, "InstanceCount": group.count, "InstanceGroupName": group.name}
        for group in training.groups
    ]
    key = context.volume_key(*(group.instance for group in training.groups))
    if key is not None:
        resources["VolumeKmsKeyId"] = key


def _watched(task: Task, context: Compiling) -> dict[str, Any]:
    """What TensorBoard, Debugger and Profiler store while the job runs."""
    training = context.target.training
    found: dict[str, Any] = {}
    logs = any(port.artifact.fits(Logs.artifact_type()) for port in context.component(task).outputs)
    if training.tensorboard and logs:
        found["TensorBoardOutputConfig"] = {
            "LocalPath": "/opt/ml/output/tensorboard",
            "S3OutputPath": context.in_execution(task.name, "tensorboard"),
        }
    if training.debugger is not None:
        collections = [
            {"CollectionName": name, **({"CollectionParameters": values} if values else {})}
            for name, values in sorted(training.debugger.collections.items())
        ]
        # the cache looks at it, so it is no place of one execution; below it SageMaker makes a folder for each job
        found["DebugHookConfig"] = {
            "S3OutputPath": context.in_pipeline("debugger", task.name),
            **({"HookParameters": training.debugger.parameters} if training.debugger.parameters else {}),
            **({"CollectionConfigurations": collections} if collections else {}),
        }
    if training.profiler is None:
        found["ProfilerConfig"] = {"DisableProfiler": True}
        return found
    found["ProfilerConfig"] = {
        "S3OutputPath": context.in_execution(task.name, "profiler"),
        "ProfilingIntervalInMilliseconds": training.profiler.interval_ms,
        **({"ProfilingParameters": training.profiler.parameters} if training.profiler.parameters else {}),
    }
    return found
