"""Rules on names and structure: what Argo and Kubernetes take as names, and graphs that hold together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import shown
from millrace.compilers.kubeflow.view import View, component_path
from millrace.errors import did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = ["components", "graphs", "pipeline_name", "task_names", "templates"]

_KUBERNETES = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_ARGO = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_ARGO_LENGTH = 128
_OWN_TEMPLATES = frozenset(
    {
        "entrypoint",
        "system-dag-driver",
        "system-container-driver",
        "system-container-executor",
        "system-container-impl",
        "retry-system-container-executor",
        "retry-system-container-impl",
    }
)


def pipeline_name(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """The pipeline's name begins the name of each run's Workflow, a Kubernetes object."""
    name = str(view.pipeline.get("pipelineInfo", {}).get("name", ""))
    path = "pipelineInfo.name"
    if not _KUBERNETES.fullmatch(name.rpartition("/")[2]):
        yield Finding(
            "error",
            path,
            f"{name!r} can't name a run: lower-case letters, digits, '-' and '.' are allowed, with a letter or digit "
            "first and last",
        )
    tasks = view.components["root"].get("dag", {}).get("tasks", {})
    if name in tasks and len(tasks) > 1:  # a component compiled alone is a pipeline of one task with its name
        yield Finding(
            "warning",
            path,
            f"a task is called {name!r}, too: kfp.components.load_component_from_file gives that task instead of the "
            "pipeline",
        )
    version = view.pipeline.get("schemaVersion")
    if version != "2.1.0":
        yield Finding("error", "schemaVersion", f"the backend takes version 2.1.0 only, given {version!r}")


def task_names(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Tasks become Argo tasks `NAME` and `NAME-driver`."""
    for use in view.uses:
        if not _ARGO.fullmatch(use.name):
            yield Finding("error", shown(use.path), f"{use.name!r} is no name for Argo: letters, digits and '-' only")
        if len(use.name) + len("-driver") > _ARGO_LENGTH:
            yield Finding(
                "error",
                shown(use.path),
                f"the name has {len(use.name)} characters; Argo takes {_ARGO_LENGTH - len('-driver')} at most",
            )
        if use.name.endswith("-driver") and (use.owner, use.name.removesuffix("-driver")) in view.by_place:
            yield Finding(
                "error", shown(use.path), f"the backend makes a task {use.name!r} for {use.name[:-7]!r}: rename one"
            )


def templates(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Components with a graph become Argo templates, and loops two more."""
    names = {name for name, component in view.components.items() if "dag" in component}
    for name in sorted(names - {"root"}):
        if name in _OWN_TEMPLATES:
            yield Finding(
                "error", shown(component_path(name)), f"{name!r} is the name of one of the backend's templates"
            )
        if not _ARGO.fullmatch(name) or len(name) > _ARGO_LENGTH:
            yield Finding(
                "error",
                shown(component_path(name)),
                f"{name!r} is no name for Argo: letters, digits and '-', {_ARGO_LENGTH} at most",
            )
    if "root" in view.pipeline.get("components", {}):
        yield Finding("error", "components.root", "'root' is the name of the pipeline itself")
    looped: set[str] = set()
    for use in view.uses:
        component = use.task.get("componentRef", {}).get("name", "")
        if use.loops and component in looped:
            told = f"another loop uses {component!r}, too: the backend takes one loop of a component"
            yield Finding("error", shown(use.path), told)
        looped |= {component} if use.loops else set()
        if use.loops and len(f"{component}-{use.name}-iterator") > _ARGO_LENGTH:
            yield Finding(
                "error",
                shown(use.path),
                f"its template {component}-{use.name}-iterator has more than {_ARGO_LENGTH} characters",
            )


def components(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Each task has a component, and each component an implementation that the backend has."""
    for use in view.uses:
        name = use.task.get("componentRef", {}).get("name", "")
        if name not in view.components or name == "root":
            hint = did_you_mean(name, set(view.components) - {"root"})
            yield Finding("error", shown((*use.path, "componentRef")), f"unknown component {name!r}: {hint}")
    for name, component in view.components.items():
        label = component.get("executorLabel")
        path = component_path(name)
        if label is None and "dag" not in component:
            yield Finding("error", shown(path), "it has neither `executorLabel` nor `dag`")
        elif label is not None and label not in view.executors:
            hint = did_you_mean(label, view.executors)
            yield Finding("error", shown((*path, "executorLabel")), f"unknown executor {label!r}: {hint}")
    for label, executor in view.executors.items():
        for kind in executor.keys() - {"container", "importer"}:
            place = ("deploymentSpec", "executors", label, kind)
            yield Finding("error", shown(place), f"the backend does not run executors of the kind {kind!r}")
    for label in view.pods:
        if label not in view.executors:
            settings = ("platforms", "kubernetes", "deploymentSpec", "executors", label)
            hint = did_you_mean(label, view.executors)
            yield Finding("error", shown(settings), f"these settings are used by no executor: {hint}")


def graphs(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Graphs have tasks, without cycles; components do not contain themselves."""
    for owner, component in view.components.items():
        if "dag" not in component:
            continue
        path = (*component_path(owner), "dag", "tasks")
        tasks = [use for use in view.uses if use.owner == owner]
        if all(use.exits for use in tasks):
            yield Finding("error", shown(path), "there are no tasks here but those that run at exit")
        needs = {use.name: sorted(_upstream(view, use.name, owner)) for use in tasks}
        if cycle := _cycle(needs):
            yield Finding("error", shown(path), f"tasks wait for each other: {' -> '.join(cycle)}")
    inside = {
        owner: sorted({use.task.get("componentRef", {}).get("name", "") for use in view.uses if use.owner == owner})
        for owner in view.components
    }
    if cycle := _cycle(inside):
        yield Finding("error", shown(component_path(cycle[0])), f"it contains itself: {' -> '.join(cycle)}")


def _upstream(view: View, name: str, owner: str) -> Iterator[str]:
    use = view.by_place[(owner, name)]
    known = [dep for dep in use.task.get("dependentTasks", []) if (owner, dep) in view.by_place]
    yield from known
    for given in use.parameters.values():
        yield from _producer(given.get("taskOutputParameter"), view, owner)
    for given in use.artifacts.values():
        yield from _producer(given.get("taskOutputArtifact"), view, owner)


def _producer(output: dict[str, str] | None, view: View, owner: str) -> Iterator[str]:
    producer = (output or {}).get("producerTask", "")
    if (owner, producer) in view.by_place:
        yield producer


def _cycle(needs: dict[str, list[str]]) -> list[str]:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []
