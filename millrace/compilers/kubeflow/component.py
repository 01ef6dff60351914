"""One component as a file for other people's Kubeflow pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from millrace.compilers.images import reference
from millrace.compilers.kubeflow.finish import describe, finished
from millrace.compilers.kubeflow.interface import (
    Interface,
    Kind,
    Taken,
    Value,
    as_constant,
    command,
    container_component,
    made_by,
    paths,
    schema_of,
)
from millrace.compilers.kubeflow.pipeline import knows_literals, need_kfp, written
from millrace.compilers.kubeflow.pods import cluster_work, ranks_here
from millrace.specs import ComponentSpec, Task
from millrace.targets.kubeflow import ClusterWork, Kubeflow

__all__ = ["compile_component"]

_KINDS: Mapping[object, Kind] = {"string": str, "integer": int, "number": float, "boolean": bool}
_SHARES = {
    "share_index": Value(int, "Which share of the shards this worker takes, counted from 0.", default=0),
    "share_count": Value(int, "Number of workers that divide the shards among them.", default=1),
}


def compile_component(spec: ComponentSpec, target: Kubeflow) -> str:
    """A component as text in YAML, for `kfp.components.load_component_from_file`.

    Every port is an artifact. Each parameter that is a plain value is an input with its default; all others
    go, as a JSON object, through the input `parameters`.

    Raises:
        ConfigError: When kfp is missing or the image is not fixed.
        UnsupportedError: For what Kubeflow can't do.
    """
    need_kfp()
    interface = _interface(spec, target)
    documents, header = written(container_component(interface, spec.description))
    document = documents[0]
    (name,) = document["root"]["dag"]["tasks"]
    describe(document["components"][f"comp-{name}"], interface)
    describe(document["root"], interface)
    if knows_literals(target):
        for place in (document["components"][f"comp-{name}"], document["root"]):
            for key, value in interface.values.items():
                if value.choices:
                    place["inputDefinitions"]["parameters"][key]["literals"] = list(value.choices)
    return finished(documents, header)


def _interface(spec: ComponentSpec, target: Kubeflow) -> Interface:
    task = Task(name=spec.name, component=spec.name, resources=spec.resources, distribution=spec.distribution)
    work = cluster_work(task, spec, target)
    taken = {
        port.name: Taken(
            schema_of(port.artifact), port.description, many=port.many, optional=port.optional or port.many
        )
        for port in spec.inputs
    }
    values = {
        "parameters": Value(str, "Parameters without an input of their own, as a JSON object.", default="{}"),
        **(_SHARES if spec.distribution.mode == "shards" else {}),
        **(_run_input() if work else {}),
    }
    opened = [name for name in _plain_fields(spec) if name not in values and name not in taken]
    values |= {name: value for name, value in _plain_fields(spec).items() if name in opened}
    made = made_by(spec)
    return Interface(
        name=spec.name,
        image=reference(spec.image, target.images),
        command=command(spec),
        arguments=[
            *(
                "--executor-input",
                "{{$}}",
                "--run",
                "{{$.inputs.parameters['run']}}" if work else "",
                "--task",
                spec.name,
            ),
            *paths("--input", "inputs", (name for name, one in taken.items() if not one.optional)),
            *paths("--output", "outputs", (name for name, one in made.items() if one.schema)),
            *(word for name in opened for word in ("--open", f"{name}={name}")),
            *_cluster(work),
            *ranks_here(task, work),
        ],
        values=values,
        taken=taken,
        made=made,
    )


def _cluster(work: ClusterWork | None) -> list[str]:
    return ["--cluster", as_constant(work.model_dump(mode="json"))] if work else []


def _run_input() -> dict[str, Value]:
    return {
        "run": Value(str, "Id of the run, that names what is made in the cluster: dsl.PIPELINE_JOB_ID_PLACEHOLDER.")
    }


def _plain_fields(spec: ComponentSpec) -> dict[str, Value]:
    """Top-level parameters that are one plain value."""
    return dict(_plain(spec.parameters))


def _plain(schema: Mapping[str, JsonValue]) -> Iterator[tuple[str, Value]]:
    properties, definitions, required = (schema.get(key) or {} for key in ("properties", "$defs", "required"))
    for name, item in _items(properties):
        named = str(item.get("$ref", "")).rpartition("/")[2]
        found = {**dict(_items(definitions)).get(named, {}), **item}
        kind = _KINDS.get(found.get("type"))
        default = found.get("default")
        if kind is None or (default is None and name not in (required if isinstance(required, list) else ())):
            continue
        choices = found.get("enum", ())
        yield (
            name,
            Value(
                kind=kind,
                description=str(found.get("description", "")),
                default=default if default is None else kind(default),
                choices=tuple(choices) if isinstance(choices, list) else (),
            ),
        )


def _items(values: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from values.items()
