"""A parsed document as the rules look at it: tasks with their components, containers with their uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from millrace.compilers.kubeflow.document import Path
from millrace.targets.kubeflow import BackendVersion

__all__ = ["DUMMY_IMAGES", "Container", "Use", "View", "artifacts_of", "before", "component_path", "parameters_of"]

DUMMY_IMAGES = frozenset({"argostub/createpvc", "argostub/deletepvc"})
"""Images that the backend never runs: it does their work itself."""


@dataclass(frozen=True)
class Use:
    """A task: one use of a component inside another component's graph."""

    owner: str
    """The component whose graph this is; `root` for the pipeline itself."""
    name: str
    task: Mapping[str, Any]
    component: Mapping[str, Any]
    """The component used; empty when there is none of that name."""
    path: Path

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What is given for the component's parameters, by name."""
        found: Mapping[str, Any] = self.task.get("inputs", {}).get("parameters", {})
        return found

    @property
    def artifacts(self) -> Mapping[str, Any]:
        """What is given for the component's artifacts, by name."""
        found: Mapping[str, Any] = self.task.get("inputs", {}).get("artifacts", {})
        return found

    @property
    def condition(self) -> str:
        """The expression that decides whether the task runs; empty when it always does."""
        return str(self.task.get("triggerPolicy", {}).get("condition", ""))

    @property
    def exits(self) -> bool:
        """Whether it runs after others, however they ended."""
        return bool(self.task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED")

    @property
    def loops(self) -> bool:
        """Whether it runs once for each item of a list."""
        return "parameterIterator" in self.task or "artifactIterator" in self.task


@dataclass(frozen=True)
class Container:
    """A container executor, and the component that it belongs to."""

    label: str
    spec: Mapping[str, Any]
    component: Mapping[str, Any]
    uses: tuple[Use, ...]
    pod: Mapping[str, Any]
    """Its Kubernetes settings."""

    @property
    def path(self) -> Path:
        return ("deploymentSpec", "executors", self.label, "container")

    @property
    def pod_path(self) -> Path:
        return ("platforms", "kubernetes", "deploymentSpec", "executors", self.label)

    @property
    def retried(self) -> bool:
        """Whether a task that uses it is tried again."""
        return any("retryPolicy" in use.task for use in self.uses)

    @property
    def dummy(self) -> bool:
        return self.spec.get("image") in DUMMY_IMAGES

    def words(self) -> Iterator[tuple[Path, str]]:
        """Command and arguments with their paths."""
        for group in ("command", "args"):
            for index, word in enumerate(self.spec.get(group, [])):
                yield (*self.path, group, index), word


@dataclass(frozen=True)
class View:
    """A document in its canonical form: names as in JSON, defaults left out."""

    pipeline: Mapping[str, Any]
    components: Mapping[str, Mapping[str, Any]]
    """By name, `root` among them."""
    executors: Mapping[str, Mapping[str, Any]]
    """By label."""
    pods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Kubernetes settings by label."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """`platforms.kubernetes.pipelineConfig`."""

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """All tasks of all graphs."""
        return tuple(
            Use(
                owner=owner,
                name=name,
                task=task,
                component=self.components.get(task.get("componentRef", {}).get("name", ""), {}),
                path=(*component_path(owner), "dag", "tasks", name),
            )
            for owner, component in self.components.items()
            for name, task in component.get("dag", {}).get("tasks", {}).items()
        )

    @cached_property
    def by_place(self) -> Mapping[tuple[str, str], Use]:
        """Tasks by the component whose graph they are in, and their name."""
        return {(use.owner, use.name): use for use in self.uses}

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """All container executors that a component uses."""
        users: dict[str, list[Use]] = {}
        for use in self.uses:
            users.setdefault(use.component.get("executorLabel", ""), []).append(use)
        return tuple(
            Container(
                label=label,
                spec=self.executors[label]["container"],
                component=component,
                uses=tuple(users.get(label, ())),
                pod=self.pods.get(label, {}),
            )
            for component in self.components.values()
            if (label := component.get("executorLabel", "")) in self.executors and "container" in self.executors[label]
        )

    def importer(self, use: Use) -> Mapping[str, Any] | None:
        """The importer that a task runs, when it is one."""
        found: Mapping[str, Any] | None = self.executors.get(use.component.get("executorLabel", ""), {}).get("importer")
        return found


def component_path(name: str) -> Path:
    return ("root",) if name == "root" else ("components", name)


def parameters_of(component: Mapping[str, Any], ends: str = "input") -> Mapping[str, Mapping[str, Any]]:
    """Declared parameters of one end (`input`, `output`) by name."""
    found: Mapping[str, Mapping[str, Any]] = component.get(f"{ends}Definitions", {}).get("parameters", {})
    return found


def artifacts_of(component: Mapping[str, Any], ends: str = "input") -> Mapping[str, Mapping[str, Any]]:
    """Declared artifacts of one end (`input`, `output`) by name."""
    found: Mapping[str, Mapping[str, Any]] = component.get(f"{ends}Definitions", {}).get("artifacts", {})
    return found


def before(compat: BackendVersion, version: str) -> bool:
    """Whether a backend is older than a version such as `2.16`."""
    return _number(compat) < _number(version)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
