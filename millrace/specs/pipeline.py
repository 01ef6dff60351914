"""A pipeline as data: tasks, the edges between them, conditions and loops, checked as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from millrace.errors import CompositionError, did_you_mean
from millrace.specs.component import ComponentSpec, Distribution, Name, Port, Resources, Retries
from millrace.specs.frozen import Frozen
from millrace.specs.references import Condition, TaskOutput

__all__ = ["ForEach", "OpenField", "PipelineSpec", "RuntimeParameter", "Task", "check_condition", "check_task"]


class ForEach(Frozen):
    """Run a task once for each share of the shards; the outputs are the union of all shares."""

    shares: int = Field(ge=1, le=10_000)
    """Workers, each with its share of the shards."""


class Task(Frozen):
    """One use of a component in a pipeline."""

    name: Name
    component: str
    """Name of a component in `PipelineSpec.components`."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, tuple[TaskOutput, ...]] = Field(default_factory=dict)
    """Producers by input port; one each, but for ports that take many."""
    conditions: tuple[Condition, ...] = ()
    """All must hold, else the task and what depends on it are skipped."""
    after: tuple[str, ...] = ()
    """Tasks that must be finished first, beside those that inputs and conditions name."""
    for_each: ForEach | None = None
    resources: Resources = Resources()
    retries: Retries = Retries()
    distribution: Distribution = Distribution()
    cache: bool = True
    """False runs the task each time."""

    def upstream(self) -> frozenset[str]:
        """Names of all tasks that must be finished before this one starts."""
        producers = (output.task for outputs in self.inputs.values() for output in outputs)
        return frozenset((*producers, *(condition.metric.task for condition in self.conditions), *self.after))


class OpenField(Frozen):
    """A place in a task's parameters that a runtime parameter fills."""

    task: Name
    path: str
    """Dotted, below the task's parameters."""


class RuntimeParameter(Frozen):
    """A field that stays open in a compiled document and is asked for in the target's UI."""

    name: str
    """Dotted key of the pipeline's configuration: `train.learning_rate`."""
    kind: Literal["string", "integer", "float", "boolean"]
    default: str | int | float | bool
    description: str = ""
    choices: tuple[str | int | float, ...] = ()
    """All allowed values, when they are few and known."""
    fills: tuple[OpenField, ...] = ()


class PipelineSpec(Frozen):
    """The typed graph of tasks.

    Raises:
        CompositionError: While it is built, when the wiring is wrong.
    """

    name: Name
    description: str = ""
    components: tuple[ComponentSpec, ...] = ()
    tasks: tuple[Task, ...] = Field(min_length=1)
    runtime_parameters: tuple[RuntimeParameter, ...] = ()
    """Fields that a compiled document leaves open; every other one is fixed in it."""

    @model_validator(mode="after")
    def _wired(self) -> PipelineSpec:
        self.order()  # raises on duplicates and cycles
        if any(task.name == self.name for task in self.tasks):
            raise CompositionError(
                f"pipeline and task are both called {self.name!r}; Kubeflow would load the task alone: "
                f"rename one, with .with_options(name=...) for the task",
                task=self.name,
            )
        earlier: dict[str, ComponentSpec] = {task.name: self.component_of(task) for task in self.tasks}
        for task in self.tasks:
            check_task(task, earlier[task.name], earlier)
            for condition in task.conditions:
                check_condition(condition, task.name, earlier)
                self._check_one_number(condition, task)
        return self

    def _check_one_number(self, condition: Condition, task: Task) -> None:
        shares = self.task(condition.metric.task).for_each
        if shares is not None and shares.shares > 1:
            raise CompositionError(
                f"task {task.name!r}: the condition {condition} compares a metric of a task that runs in "
                f"{shares.shares} shares, each with a number of its own: compare one that a later task reports",
                task=task.name,
            )

    def task(self, name: str) -> Task:
        """The task called `name`.

        Raises:
            CompositionError: When there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise CompositionError(f"unknown task {name!r}: {did_you_mean(name, (task.name for task in self.tasks))}")

    def component_of(self, task: Task) -> ComponentSpec:
        """The component that `task` uses."""
        for component in self.components:
            if component.name == task.component:
                return component
        names = (component.name for component in self.components)
        raise CompositionError(
            f"task {task.name!r}: unknown component {task.component!r}: {did_you_mean(task.component, names)}",
            task=task.name,
        )

    def order(self) -> tuple[str, ...]:
        """Task names so that each comes after all it depends on; ties in the author's order.

        Raises:
            CompositionError: On a duplicate name, an unknown dependency or a cycle.
        """
        by_name: dict[str, Task] = {}
        for task in self.tasks:
            if task.name in by_name:
                raise CompositionError(f"duplicate task name {task.name!r}", task=task.name)
            by_name[task.name] = task
        for task in self.tasks:
            for name in task.upstream():
                if name not in by_name:
                    hint = did_you_mean(name, by_name)
                    raise CompositionError(
                        f"task {task.name!r} depends on unknown task {name!r}: {hint}", task=task.name
                    )
        return tuple(_sorted(by_name))

    def to_json(self) -> str:
        """The spec as JSON text; the same bytes for the same pipeline, also after `from_json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PipelineSpec:
        """Read what `to_json` wrote, checking the wiring again."""
        return cls.model_validate_json(text)


def _sorted(tasks: Mapping[str, Task]) -> Iterator[str]:
    sorter = TopologicalSorter({name: sorted(task.upstream()) for name, task in tasks.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        raise CompositionError(f"tasks depend on each other in a cycle: {' -> '.join(cycle)}", task=cycle[0]) from error
    position = {name: index for index, name in enumerate(tasks)}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        yield from ready
        sorter.done(*ready)


def check_task(task: Task, component: ComponentSpec, produced: Mapping[str, ComponentSpec]) -> None:
    """Check one task's inputs against its component and the components of the tasks it reads from.

    Raises:
        CompositionError: Naming the task, the port, what was given and what fits.
    """
    names = [port.name for port in component.inputs]
    for name in task.inputs:
        if name not in names:
            raise CompositionError(
                f"task {task.name!r}: unknown input {name!r}: {did_you_mean(name, names)}", task=task.name
            )
    for port in component.inputs:
        given = task.inputs.get(port.name, ())
        if not given and not port.optional and not port.many:
            raise CompositionError(
                f"task {task.name!r}: input {port.name!r} is missing: it needs a {port.artifact}", task=task.name
            )
        if len(given) > 1 and not port.many:
            raise CompositionError(
                f"task {task.name!r}: input {port.name!r} takes one artifact, {len(given)} given", task=task.name
            )
        for output in given:
            _check_edge(task.name, port, output, produced)
    if task.for_each is not None and component.distribution.mode != "shards":
        raise CompositionError(
            f"task {task.name!r}: component {component.name!r} can't be spread over shares: "
            f"its distribution is {component.distribution.mode!r}, needed: 'shards'",
            task=task.name,
        )


def _check_edge(task: str, port: Port, output: TaskOutput, produced: Mapping[str, ComponentSpec]) -> None:
    if output.task not in produced:
        raise CompositionError(
            f"task {task!r}: input {port.name!r} is given {output}, but this pipeline has no task "
            f"{output.task!r}: {did_you_mean(output.task, produced)}",
            task=task,
        )
    made = produced[output.task].output(output.port)
    if made is None:
        ports = (item.name for item in produced[output.task].outputs)
        raise CompositionError(
            f"task {task!r}: input {port.name!r} is given unknown output {output}: {did_you_mean(output.port, ports)}",
            task=task,
        )
    if not made.artifact.fits(port.artifact):
        raise CompositionError(
            f"task {task!r}: input {port.name!r} needs a {port.artifact}, given {output}, a {made.artifact}",
            task=task,
        )


def check_condition(condition: Condition, task: str, produced: Mapping[str, ComponentSpec]) -> None:
    """Check that a condition compares a metric that its producer reports.

    Raises:
        CompositionError: Naming the metric and what is allowed.
    """
    if condition.metric.task not in produced:
        raise CompositionError(
            f"task {task!r}: condition on {condition.metric}, but this pipeline has no task "
            f"{condition.metric.task!r}: {did_you_mean(condition.metric.task, produced)}",
            task=task,
        )
    metrics = [metric.name for metric in produced[condition.metric.task].metrics]
    if condition.metric.port not in metrics:
        raise CompositionError(
            f"task {task!r}: condition on unknown metric {condition.metric}: "
            f"{did_you_mean(condition.metric.port, metrics)}",
            task=task,
        )
