"""What the shares of a task made, as one artifact where the backend can't hand on a list.

A graph of the backend (a condition, a loop) knows one artifact for each of its inputs: of a list it would
silently take one. A task outside of the graph puts the parts together first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from millrace.compilers.groups import conditions_of
from millrace.registry import load_component
from millrace.specs import ComponentSpec, Condition, PipelineSpec, Task, TaskOutput

__all__ = ["with_gathering"]


def with_gathering(spec: PipelineSpec) -> PipelineSpec:
    """The pipeline, with a task `gather_TASK_PORT` for each output of several shares that is read inside a graph.

    Raises:
        CompositionError: When a task of the pipeline has that name already.
    """
    conditions = conditions_of(spec)
    crossing = dict.fromkeys(output for task in spec.tasks for output in _crossing(task, spec, conditions))
    if not crossing:
        return spec
    components = {component.name: component for component in spec.components}
    tasks = [_redirected(task, set(_crossing(task, spec, conditions))) for task in spec.tasks]
    for output in crossing:
        component = _component(output, spec)
        components[component.name] = component
        tasks.append(_gathering(output, component, conditions[output.task]))
    return PipelineSpec(
        name=spec.name,
        description=spec.description,
        components=tuple(components[name] for name in sorted(components)),
        tasks=tuple(tasks),
        runtime_parameters=spec.runtime_parameters,
    )


def _crossing(task: Task, spec: PipelineSpec, conditions: Mapping[str, tuple[Condition, ...]]) -> Iterator[TaskOutput]:
    """Outputs of several shares that a task reads from inside a graph in which they were not made."""
    for output in (output for outputs in task.inputs.values() for output in outputs):
        producer = spec.task(output.task)
        if _shares(producer) > 1 and (_shares(task) > 1 or conditions[task.name] != conditions[producer.name]):
            yield output


def _shares(task: Task) -> int:
    return task.for_each.shares if task.for_each else 1


def _name(output: TaskOutput) -> str:
    return f"gather_{output.task}_{output.port}"


def _redirected(task: Task, crossing: set[TaskOutput]) -> Task:
    inputs = {
        port: tuple(TaskOutput(task=_name(each), port="whole") if each in crossing else each for each in outputs)
        for port, outputs in task.inputs.items()
    }
    return task.model_copy(update={"inputs": inputs})


def _component(output: TaskOutput, spec: PipelineSpec) -> ComponentSpec:
    """The component `gather`, for artifacts of the output's type."""
    made = spec.component_of(spec.task(output.task)).output(output.port)
    general = load_component("gather").spec
    if made is None:
        return general
    return general.model_copy(
        update={
            "name": f"gather_{made.artifact.title.replace('.', '_').lower()}",
            "inputs": tuple(port.model_copy(update={"artifact": made.artifact}) for port in general.inputs),
            "outputs": tuple(port.model_copy(update={"artifact": made.artifact}) for port in general.outputs),
        }
    )


def _gathering(output: TaskOutput, component: ComponentSpec, conditions: tuple[Condition, ...]) -> Task:
    return Task(
        name=_name(output),
        component=component.name,
        inputs={"parts": (output,)},
        conditions=conditions,
        resources=component.resources,
        retries=component.retries,
    )
