"""How authors write pipelines: components are called, `when` guards, `@pipeline` collects.

A component's call has the signature of its own `Inputs` model, so mypy and pyright check the wiring;
the same is checked again when the pipeline is composed, at the author's own line.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Generic, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ValidationError

from millrace.errors import CompositionError, MillraceError, did_you_mean, explain_validation
from millrace.specs.artifacts import Artifact
from millrace.specs.component import (
    ComponentSpec,
    Distribution,
    Inputs,
    Outputs,
    Parameters,
    Resources,
    Retries,
)
from millrace.specs.frozen import Frozen
from millrace.specs.locations import author_line, line_of, raising_line
from millrace.specs.pipeline import ForEach, PipelineSpec, Task, check_condition, check_task
from millrace.specs.ports import output_handles
from millrace.specs.references import Condition, Metric, TaskOutput

__all__ = ["Component", "Pipeline", "PipelineConfig", "pipeline", "when"]

ParametersT = TypeVar("ParametersT", bound=Parameters)
OutputsT = TypeVar("OutputsT", bound=Outputs)
ConfigT = TypeVar("ConfigT", bound="PipelineConfig")
InputsP = ParamSpec("InputsP")


class PipelineConfig(Frozen):
    """Base of a pipeline's configuration: one field a component, and whatever else it decides on."""

    def remarks(self) -> tuple[str, ...]:
        """What whoever starts the pipeline with this configuration is to know beforehand."""
        return ()


@dataclass
class _Composition:
    """A pipeline while its function runs."""

    tasks: dict[str, Task] = field(default_factory=dict)
    components: dict[str, ComponentSpec] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    def produced(self) -> dict[str, ComponentSpec]:
        return {name: self.components[task.component] for name, task in self.tasks.items()}

    def add(self, task: Task, spec: ComponentSpec, location: str) -> None:
        if task.name in self.tasks:
            raise CompositionError(
                f"duplicate task name {task.name!r}, first used at {self.locations[task.name]}; "
                f"give this one another: .with_options(name=...)",
                task=task.name,
                location=location,
            )
        if self.components.setdefault(spec.name, spec) != spec:
            raise CompositionError(
                f"two different components are called {spec.name!r}: {self.components[spec.name].entry} "
                f"and {spec.entry}",
                task=task.name,
                location=location,
            )
        self.tasks[task.name] = task
        self.locations[task.name] = location


_composing: ContextVar[_Composition | None] = ContextVar("composing", default=None)


@dataclass(frozen=True)
class Component(Generic[ParametersT, InputsP, OutputsT]):
    """A component that can be called inside a `@pipeline` function to make a task."""

    spec: ComponentSpec
    parameters: type[ParametersT]
    inputs: Callable[InputsP, Inputs]
    outputs: type[OutputsT]
    _options: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, parameters: ParametersT, *args: InputsP.args, **inputs: InputsP.kwargs) -> OutputsT:
        """Add a task to the pipeline being composed.

        Args:
            parameters: This component's parameters.
            *args: None: inputs are given by name.
            **inputs: Outputs of earlier tasks, by input port.

        Raises:
            CompositionError: At the caller's line, when the task can't be wired so.
        """
        location = author_line()
        composition = _composing.get()
        name = str(self._options.get("name", self.spec.name))
        try:
            if composition is None:
                raise CompositionError(f"component {name!r} is called outside a @pipeline function", task=name)
            task = self._task(name, composition, parameters, args, inputs)
            check_task(task, self.spec, composition.produced())
        except CompositionError as error:
            raise CompositionError(error.message, task=name, location=location) from error
        composition.add(task, self.spec, location)
        return self._references(task.name)

    def with_options(
        self,
        *,
        name: str | None = None,
        shares: int | None = None,
        after: tuple[Outputs | str, ...] = (),
        resources: Resources | None = None,
        retries: Retries | None = None,
        distribution: Distribution | None = None,
        cache: bool | None = None,
    ) -> Component[ParametersT, InputsP, OutputsT]:
        """The same component with other task options.

        Args:
            name: Name of the task, when not the component's own.
            shares: Run the task that many times side by side, each with its share of the shards.
            after: Tasks to wait for although nothing of theirs is read.
            resources: What one worker needs, instead of the component's own.
            retries: How often it is tried again.
            distribution: Hosts and ranks, for components that train together.
            cache: False runs the task each time.
        """
        given = {
            "name": name,
            "for_each": None if shares is None else _checked(ForEach, shares=shares),
            "after": _task_names(after) or None,
            "resources": resources,
            "retries": retries,
            "distribution": distribution,
            "cache": cache,
        }
        chosen = {key: value for key, value in given.items() if value is not None}
        return replace(self, _options={**self._options, **chosen})

    def _task(
        self,
        name: str,
        composition: _Composition,
        parameters: object,
        args: tuple[object, ...],
        inputs: Mapping[str, object],
    ) -> Task:
        if args:
            raise CompositionError(f"task {name!r}: inputs are given by name, {len(args)} given without one")
        if not isinstance(parameters, self.parameters):
            raise CompositionError(
                f"task {name!r}: parameters must be {self.parameters.__module__}.{self.parameters.__qualname__}, "
                f"given {type(parameters).__qualname__}"
            )
        values: dict[str, object] = {
            "resources": self.spec.resources,
            "retries": self.spec.retries,
            "distribution": self.spec.distribution,
            **self._options,
            "name": name,
            "component": self.spec.name,
            "parameters": parameters.model_dump(mode="json"),
            "inputs": self._producers(name, inputs),
            "conditions": tuple(composition.conditions),
        }
        return _checked(Task, **values)

    def _producers(self, task: str, inputs: Mapping[str, object]) -> dict[str, tuple[TaskOutput, ...]]:
        known = [port.name for port in self.spec.inputs]
        many = {port.name for port in self.spec.inputs if port.many}
        producers = {}
        for port, given in inputs.items():
            if port not in known:
                raise CompositionError(f"task {task!r}: unknown input {port!r}: {did_you_mean(port, known)}")
            if isinstance(given, tuple | list) and port not in many:
                kind = type(given).__name__
                raise CompositionError(
                    f"task {task!r}: input {port!r} takes one artifact, given a {kind} of {len(given)}"
                )
            handles = given if isinstance(given, tuple | list) else () if given is None else (given,)
            if references := tuple(_producer(task, port, self.spec, handle) for handle in handles):
                producers[port] = references
        return producers

    def _references(self, task: str) -> OutputsT:
        values = {
            name: kind(producer=TaskOutput(task=task, port=name)) for name, kind in output_handles(self.outputs).items()
        }
        return self.outputs(**values)


@dataclass(frozen=True)
class Pipeline(Generic[ConfigT]):
    """A pipeline function with its name and the type of its configuration."""

    name: str
    config: type[ConfigT]
    function: Callable[[ConfigT], None]

    @property
    def description(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    def compose(self, config: ConfigT) -> PipelineSpec:
        """Run the author's function and return the checked graph.

        Raises:
            CompositionError: With the author's own line.
        """
        if not isinstance(config, self.config):
            raise CompositionError(
                f"pipeline {self.name!r} needs a {self.config.__qualname__}, given {type(config).__qualname__}",
                location=author_line(),
            )
        composition = _Composition()
        token = _composing.set(composition)
        try:
            self.function(config)
        except CompositionError as error:
            location = error.location or raising_line(error)
            raise CompositionError(error.message, task=error.task, location=location) from error
        except Exception as error:
            raise CompositionError(_explained(error), location=raising_line(error)) from error
        finally:
            _composing.reset(token)
        if not composition.tasks:
            raise CompositionError(f"pipeline {self.name!r} has no tasks", location=line_of(self.function))
        try:
            return PipelineSpec(
                name=self.name,
                description=self.description.partition("\n")[0],
                components=tuple(composition.components[name] for name in sorted(composition.components)),
                tasks=tuple(composition.tasks.values()),
            )
        except CompositionError as error:
            location = composition.locations.get(error.task, line_of(self.function))
            raise CompositionError(error.message, task=error.task, location=location) from error
        except ValidationError as error:
            raise CompositionError(explain_validation(error), location=line_of(self.function)) from error


def pipeline(function: Callable[[ConfigT], None]) -> Pipeline[ConfigT]:
    """Make a pipeline of a function that takes a `PipelineConfig` and calls components."""
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise CompositionError(
            f"pipeline {function.__name__!r} must be a plain function, without async and yield",
            location=line_of(function),
        )
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise CompositionError(f"pipeline {function.__name__!r}: {error}", location=line_of(function)) from error
    hints.pop("return", None)
    kinds: list[type[ConfigT]] = [kind for kind in hints.values() if _is_config(kind)]
    if len(hints) != 1 or len(kinds) != 1:
        raise CompositionError(
            f"pipeline {function.__name__!r} must take one argument, annotated with a PipelineConfig",
            location=line_of(function),
        )
    return Pipeline(function.__name__, kinds[0], function)


def _is_config(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, PipelineConfig)


@contextlib.contextmanager
def when(condition: Condition) -> Iterator[None]:
    """Tasks made inside run only when the condition holds.

    Raises:
        CompositionError: Outside a pipeline, or on a metric that no task reports.
    """
    composition = _composing.get()
    try:
        if not isinstance(condition, Condition):
            hint = "; == and != are none: compare by >=, >, <= or <" if isinstance(condition, bool) else ""
            raise CompositionError(f"`when` needs a comparison of a metric, given {condition!r}{hint}")
        if composition is None:
            raise CompositionError("`when` is used outside a @pipeline function")
        check_condition(condition, "when", composition.produced())
    except CompositionError as error:
        raise CompositionError(error.message, location=author_line()) from error
    composition.conditions.append(condition)
    try:
        yield
    finally:
        composition.conditions.pop()


def _producer(task: str, port: str, spec: ComponentSpec, handle: object) -> TaskOutput:
    if isinstance(handle, Artifact) and handle.producer is not None:
        return handle.producer
    wanted = spec.input(port)
    needs = wanted.artifact if wanted else "Artifact"
    raise CompositionError(
        f"task {task!r}: input {port!r} needs a {needs} made by an earlier task, given {type(handle).__name__}"
    )


def _task_names(after: object) -> tuple[str, ...]:
    if not isinstance(after, tuple | list):
        raise CompositionError("`after` takes a tuple of outputs or names: after=(trained,)", location=author_line())
    return tuple(_task_name(item) for item in after)


def _task_name(item: object) -> str:
    if isinstance(item, str):
        return item
    for _, handle in item if isinstance(item, Outputs) else ():
        if isinstance(handle, Artifact | Metric) and handle.producer is not None:
            return handle.producer.task
    raise CompositionError("`after` takes the outputs of tasks, or their names", location=author_line())


def _explained(error: Exception) -> str:
    """What went wrong in the author's own function, with the nearest name for a misspelt field."""
    if isinstance(error, ValidationError):
        return explain_validation(error)
    if isinstance(error, MillraceError):
        return str(error)
    hint = ""
    if isinstance(error, AttributeError) and isinstance(error.obj, BaseModel):
        hint = f": {did_you_mean(str(error.name), type(error.obj).model_fields)}"
    return f"{type(error).__name__}: {error}{hint}"


ModelT = TypeVar("ModelT", bound=BaseModel)


def _checked(model: type[ModelT], **values: object) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise CompositionError(explain_validation(error), location=author_line()) from error
