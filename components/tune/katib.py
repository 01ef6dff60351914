"""A search as a Katib Experiment: what is asked for, as data, and what Katib's trials say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from millrace.components.tune.space import Choices, FloatRange, IntRange, Range
from millrace.components.tune.spec import MedianRule, TpeSampler, TuneParameters
from millrace.components.tune.study import TrialRecord
from millrace.runtime.cluster.podspec import container_fields, pod_fields
from millrace.runtime.cluster.remote import TASK, RemoteTask
from millrace.specs.dotted import merged
from millrace.targets.kubeflow import ClusterWork

__all__ = ["Object", "condition", "experiment", "records", "trial_state"]

Object = dict[str, Any]

_CONTAINER = "trial"


def experiment(name: str, parameters: TuneParameters, work: ClusterWork, task: RemoteTask) -> Object:
    """The Experiment.

    Args:
        name: Its name, at most 40 characters.
        parameters: The search.
        work: Image, resources and placement of the trials' pods.
        task: What a trial does; the values of the space are put over its parameters.
    """
    searched, goal = _metrics(parameters)
    spec: Object = {
        "objective": {
            "type": parameters.objective.direction,
            "objectiveMetricName": searched,
            "additionalMetricNames": goal,
            "metricStrategies": [{"name": metric, "value": "latest"} for metric in (searched, *goal)],
        },
        "algorithm": _algorithm(parameters),
        "parameters": [_parameter(path, item) for path, item in sorted(parameters.space.items())],
        "maxTrialCount": parameters.trials,
        "parallelTrialCount": min(parameters.parallel, parameters.trials),
        "maxFailedTrialCount": parameters.trials,  # a trial that fails counts, and the search goes on
        "resumePolicy": "Never",
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "trialTemplate": _template(parameters, work, task),
    }
    if isinstance(parameters.pruner, MedianRule):
        spec["earlyStopping"] = {
            "algorithmName": "medianstop",
            "algorithmSettings": [
                {"name": "min_trials_required", "value": str(max(1, parameters.pruner.startup_trials))},
                {"name": "start_step", "value": str(parameters.pruner.warmup_epochs + 1)},
            ],
        }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": work.namespace, "labels": {"app.kubernetes.io/managed-by": "millrace"}},
        "spec": spec,
    }


def _metrics(parameters: TuneParameters) -> tuple[str, list[str]]:
    """The metric that Katib looks at, and others that it collects.

    Trials are ended early by what they report after each epoch, and Katib looks at one metric only.
    """
    metric, each = parameters.objective.metric, parameters.objective.intermediate
    searched = each if isinstance(parameters.pruner, MedianRule) else metric
    return searched, [name for name in dict.fromkeys((metric, each)) if name != searched]


def _algorithm(parameters: TuneParameters) -> Object:
    sampler = parameters.sampler
    settings = {"random_state": str(parameters.seed)}
    if not isinstance(sampler, TpeSampler):
        name = "random"
    elif sampler.multivariate:
        name = "multivariate-tpe"
        settings["n_startup_trials"] = str(sampler.startup_trials)
    else:
        name = "tpe"
    return {"algorithmName": name, "algorithmSettings": [{"name": key, "value": settings[key]} for key in settings]}


def _parameter(path: str, item: Range) -> Object:
    if isinstance(item, Choices):
        return {
            "name": path,
            "parameterType": "categorical",
            "feasibleSpace": {"list": [_text(choice) for choice in item.choices]},
        }
    space = {
        "min": repr(item.low),
        "max": repr(item.high),
        "distribution": "logUniform" if item.log else "uniform",  # Katib's optuna fails when it is left out
        **({"step": repr(item.step)} if item.step is not None else {}),
    }
    kind = "int" if isinstance(item, IntRange) else "double"
    return {"name": path, "parameterType": kind, "feasibleSpace": space}


def _text(choice: JsonValue) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)


def _template(parameters: TuneParameters, work: ClusterWork, task: RemoteTask) -> Object:
    names = {path: re.sub(r"[^A-Za-z0-9]+", "_", path) + f"_{number}" for number, path in enumerate(parameters.space)}
    fields = container_fields(work)
    env = [
        *fields.pop("env", ()),
        {"name": TASK, "value": _task_text(parameters, task, names)},
        {"name": "JOB_COMPLETION_INDEX", "value": "0"},
    ]
    command = ["millrace", "exec", parameters.component, "--remote"]
    pod = {
        **pod_fields(work),
        "restartPolicy": "Never",
        "containers": [{**fields, "name": _CONTAINER, "image": work.image, "command": command, "env": env}],
    }
    metadata: Object = {"annotations": {"sidecar.istio.io/inject": "false", **work.pod.annotations}}
    if work.pod.labels:
        metadata["labels"] = dict(work.pod.labels)
    seconds = round(work.resources.timeout_minutes * 60)
    job = {"template": {"metadata": metadata, "spec": pod}, "backoffLimit": 0, "activeDeadlineSeconds": seconds}
    return {
        "primaryContainerName": _CONTAINER,
        "retain": True,  # their pods tell why they failed
        "successCondition": 'status.conditions.#(type=="Complete")#|#(status=="True")#',
        "failureCondition": 'status.conditions.#(type=="Failed")#|#(status=="True")#',
        "trialParameters": [{"name": names[path], "reference": path} for path in sorted(names)],
        "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": job},
    }


def _task_text(parameters: TuneParameters, task: RemoteTask, names: Mapping[str, str]) -> str:
    """The task with Katib's placeholders where the values belong: texts in quotes, numbers without."""
    marks: dict[str, JsonValue] = {path: f"@@{name}@@" for path, name in names.items()}
    text = task.model_copy(update={"parameters": merged(task.parameters, marks)}).model_dump_json()
    text = text.replace("$", "\\u0024")  # Katib and Kubernetes would expand what follows
    for path, name in names.items():
        item = parameters.space[path]
        placeholder = f"${{trialParameters.{name}}}"
        is_text = isinstance(item, Choices) and isinstance(item.choices[0], str)
        text = text.replace(f'"@@{name}@@"', f'"{placeholder}"' if is_text else placeholder)
    return text


def condition(found: Object) -> tuple[str, str]:
    """`Succeeded` or `Failed` for an experiment that is over, else "", and what Katib says about it."""
    for item in found.get("status", {}).get("conditions", ()):
        if item["type"] in ("Succeeded", "Failed") and item["status"] == "True":
            return item["type"], ": ".join(filter(None, (item.get("reason"), item.get("message"))))
    return "", ""


def trial_state(trial: Object) -> str:
    """`complete`, `pruned` or `fail` for a trial that is over, else ""."""
    states = {
        "Succeeded": "complete",
        "EarlyStopped": "pruned",
        "Failed": "fail",
        "Killed": "fail",
        "MetricsUnavailable": "fail",
    }
    now = [item["type"] for item in trial.get("status", {}).get("conditions", ()) if item["status"] == "True"]
    return next((state for kind, state in states.items() if kind in now), "")


def records(parameters: TuneParameters, trials: Iterable[Object]) -> tuple[TrialRecord, ...]:
    """Katib's trials that are over, in the order in which they began, as the search in a pod writes them.

    A trial that did not report the objective has failed, whatever Katib thinks.
    """
    over = [trial for trial in trials if trial_state(trial)]
    over.sort(key=lambda trial: (trial["status"].get("startTime", ""), trial["metadata"]["name"]))
    return tuple(_record(parameters, number, trial) for number, trial in enumerate(over))


def _record(parameters: TuneParameters, number: int, trial: Object) -> TrialRecord:
    status = trial["status"]
    given = {item["name"]: item["value"] for item in trial["spec"]["parameterAssignments"]}
    told = {item["name"]: item["latest"] for item in status.get("observation", {}).get("metrics", ())}
    value = _number(told.get(parameters.objective.metric))
    state = trial_state(trial)
    if state == "complete" and value is None:
        state = "fail"
    return TrialRecord(
        number=number,
        state=state,
        parameters={path: _value(item, given[path]) for path, item in sorted(parameters.space.items())},
        value=value if state == "complete" else None,
        seconds=_seconds(status),
        intermediate={},
    )


def _value(item: Range, text: str) -> JsonValue:
    if isinstance(item, Choices):
        return next((choice for choice in item.choices if _text(choice) == text), text)
    number = float(text)
    inside = min(max(number, item.low), item.high)  # suggestions are rounded on the way
    return inside if isinstance(item, FloatRange) else round(inside)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:  # Katib says `unavailable`
        return None


def _seconds(status: Object) -> float:
    try:
        begun, ended = (datetime.fromisoformat(status[name]) for name in ("startTime", "completionTime"))
    except (KeyError, ValueError):
        return 0.0
    return (ended - begun).total_seconds()
