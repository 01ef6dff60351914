"""From a pipeline to Kubeflow's own document, through kfp's public DSL."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from millrace.compilers.groups import Group, group_tasks
from millrace.compilers.kubeflow.finish import describe, end_retries, finished
from millrace.compilers.kubeflow.gathering import with_gathering
from millrace.compilers.kubeflow.interface import OUTPUT_MARK, container_component
from millrace.compilers.kubeflow.pods import check_tasks, retries_end, set_pod, with_resources
from millrace.compilers.kubeflow.tasks import KINDS, RUN_VARIABLE, Planned, open_name, plan_task
from millrace.compilers.refusals import check_sources
from millrace.errors import ConfigError
from millrace.specs import Condition, PipelineSpec, Task, TaskOutput
from millrace.targets.kubeflow import Kubeflow

__all__ = ["compile_pipeline", "knows_literals", "need_kfp", "written"]

_RUN_LABEL = "metadata.labels['pipeline/runid']"
_GROUP_NAME = re.compile(r"(condition|condition-branches|exit-handler|for-loop)-[0-9]+")
_NAMED_GROUPS = ("2.16", "2.17")
"""Backends on which the name that the UI shows may differ from the one that others refer to."""


@dataclass
class _Composition:
    """A pipeline while kfp composes it."""

    spec: PipelineSpec
    target: Kubeflow
    plans: Mapping[str, Planned]
    parameters: Mapping[str, Any]
    made: dict[str, Any] = field(default_factory=dict)
    """kfp's tasks by our names."""


def compile_pipeline(spec: PipelineSpec, target: Kubeflow) -> str:
    """The pipeline as text in YAML: the pipeline spec, and below it the platform spec for Kubernetes.

    The same pipeline gives the same bytes. Nothing is asked for over a network.

    Raises:
        ConfigError: When kfp is missing, an image is not fixed or names collide.
        UnsupportedError: For what Kubeflow can't do.
    """
    need_kfp()
    spec = with_gathering(spec)
    check_tasks(spec, target)
    check_sources(spec)
    spec = with_resources(spec, target)
    root = group_tasks(spec)
    plans = {task.name: plan_task(task, spec, target) for task in spec.tasks}
    names: dict[str, str] = {}

    def build(*channels: Any) -> None:
        composition = _Composition(spec, target, plans, dict(zip(opened, channels, strict=True)))
        _add_group(composition, root)
        names.update({name: task.name for name, task in composition.made.items()})

    opened = _open_parameters(spec)
    build.__name__ = spec.name
    vars(build)["__signature__"] = Signature(list(opened.values()))
    documents, header = written(_composed(build, spec, target))
    for name, plan in plans.items():
        describe(documents[0]["components"][f"comp-{names[name]}"], plan.interface)
    ends = {names[task.name]: retries_end(task.retries, task.resources) for task in spec.tasks}
    end_retries(documents[0], ends)
    _describe_parameters(documents[0], spec, target)
    return finished(documents, header)


def knows_literals(target: Kubeflow) -> bool:
    """Whether the backend knows lists of allowed values; an older one refuses the document."""
    return target.compat not in ("2.14", "2.15")


def need_kfp() -> None:
    """Check that kfp is installed.

    Raises:
        ConfigError: With the line that installs it.
    """
    for package in ("kfp.dsl", "kfp.kubernetes"):
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"target=kubeflow needs the package {error.name!r}: pip install -e '.[kubeflow]'"
            ) from error


def written(component: Any) -> tuple[list[dict[str, Any]], str]:
    """What kfp's compiler writes for one of its components: the documents, and the comments above them."""
    import yaml
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "document.yaml")
        compiler.Compiler().compile(component, str(path))
        text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(text, Loader=loader)), header


def _composed(build: Any, spec: PipelineSpec, target: Kubeflow) -> Any:
    from kfp import dsl

    name = _kebab(spec.name)
    same = [f"the task {task.name!r}" for task in spec.tasks if _kebab(task.name) == name]
    if _GROUP_NAME.fullmatch(name):
        same.append("a group of tasks")
    if same:
        raise ConfigError(
            f"pipeline.name: {spec.name!r} would be called {name!r} in Kubeflow, as {same[0]}, and kfp would load "
            "that alone: give another name, pipeline.name=NAME"
        )
    return dsl.pipeline(name=name, description=spec.description or None, pipeline_root=target.pipeline_root)(build)


def _kebab(name: str) -> str:
    return re.sub("-+", "-", name.replace("_", "-")).strip("-")


def _open_parameters(spec: PipelineSpec) -> dict[str, Parameter]:
    """The pipeline's own parameters, by their dotted names."""
    found: dict[str, Parameter] = {}
    names: dict[str, str] = {}
    for parameter in spec.runtime_parameters:
        name = open_name(parameter)
        if name in names:
            raise ConfigError(f"runtime: {names[name]} and {parameter.name} would both be called {name!r}")
        names[name] = parameter.name
        kind = KINDS[parameter.kind]
        found[parameter.name] = Parameter(
            name, Parameter.KEYWORD_ONLY, annotation=kind, default=kind(parameter.default)
        )
    return found


def _add_group(composition: _Composition, group: Group) -> None:
    for task in group.tasks:
        with _share(composition, task) as share:
            composition.made[task.name] = _add_task(composition, task, share)
    for condition, below in group.groups.values():
        with _when(composition, condition):
            _add_group(composition, below)


@contextlib.contextmanager
def _share(composition: _Composition, task: Task) -> Iterator[Any]:
    """A loop over the shares of a task that has several; gives the index of the share, or 0."""
    from kfp import dsl

    if task.for_each is None or task.for_each.shares == 1:
        yield 0
        return
    name = f"{task.name}, by shares" if composition.target.compat in _NAMED_GROUPS else None
    with dsl.ParallelFor(items=list(range(task.for_each.shares)), name=name) as index:
        yield index


@contextlib.contextmanager
def _when(composition: _Composition, condition: Condition) -> Iterator[None]:
    from kfp import dsl

    metric = _channel(composition, condition.metric)
    threshold = composition.parameters[condition.runtime] if condition.runtime else condition.threshold
    compared = {
        ">=": metric.__ge__,
        ">": metric.__gt__,
        "<=": metric.__le__,
        "<": metric.__lt__,
    }[condition.comparison](threshold)
    name = f"{condition.metric} {condition.comparison} {condition.runtime or format(condition.threshold, 'g')}"
    with dsl.If(compared, name=name if composition.target.compat in _NAMED_GROUPS else None):
        yield


def _add_task(composition: _Composition, task: Task, share: Any) -> Any:
    from kfp import kubernetes

    plan = composition.plans[task.name]
    given: dict[str, Any] = dict(plan.constants)
    if "share_index" in given:
        given["share_index"] = share
    given |= {name: composition.parameters[dotted] for name, dotted in plan.opened.items()}
    given |= {name: _channel(composition, output) for name, output in plan.artifacts.items()}
    made = container_component(plan.interface)(**given)
    for name in task.after:
        made.after(composition.made[name])
    spec = composition.spec
    paths = [place.path for one in spec.runtime_parameters for place in one.fills if place.task == task.name]
    set_pod(made, task, spec.component_of(task), composition.target, paths)
    kubernetes.use_field_path_as_env(made, RUN_VARIABLE, _RUN_LABEL)
    return made


def _channel(composition: _Composition, output: TaskOutput) -> Any:
    """What kfp calls a task's output: of all shares together, where there are several."""
    from kfp import dsl

    producer = composition.spec.task(output.task)
    outputs = composition.made[output.task].outputs
    channel = outputs[output.port] if output.port in outputs else outputs[f"{output.port}{OUTPUT_MARK}"]
    return dsl.Collected(channel) if producer.for_each and producer.for_each.shares > 1 else channel


def _describe_parameters(document: dict[str, Any], spec: PipelineSpec, target: Kubeflow) -> None:
    """Descriptions and allowed values of the pipeline's own parameters, for the form in the UI."""
    defined = document["root"].get("inputDefinitions", {}).get("parameters", {})
    for parameter in spec.runtime_parameters:
        entry = defined[open_name(parameter)]
        if parameter.description:
            entry["description"] = " ".join(parameter.description.split())
        if parameter.choices and knows_literals(target):
            entry["literals"] = list(parameter.choices)
