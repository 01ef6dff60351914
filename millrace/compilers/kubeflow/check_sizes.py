"""Rules on size: one argument of a process, and the Workflow that a document becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import shown
from millrace.compilers.kubeflow.view import Container, Use, View, parameters_of
from millrace.targets.kubeflow import BackendVersion

__all__ = ["arguments", "workflow", "workflow_bytes"]

MAX_ARGUMENT = 131_071
"""Bytes of one argument that Linux takes (MAX_ARG_STRLEN with its zero)."""
MAX_OBJECT = 1_572_864
"""Bytes of one request that etcd takes: a Kubernetes object can't be larger."""
WARN_OBJECT = 1_048_576
_URI = 200
"""Bytes that an artifact's URI is taken to have."""
_TASK = 1_000
"""Bytes of a Workflow that each task takes beside its specs."""
_BASE = 9_000
"""Bytes of a Workflow that no task takes: the backend's own templates."""
_LABELLED = 6_000
"""Bytes of the templates that the backend makes for each number of labels and annotations."""
_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


def arguments(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """No argument is longer than Linux takes; the launcher passes whole specs as arguments, too."""
    for container in view.containers:
        if container.dummy:
            continue
        told: set[str] = set()
        for use in container.uses:
            values = _constants(use)
            everything = _executor_input(container, use, values)
            if everything > MAX_ARGUMENT:
                yield _too_long(shown((*use.path, "inputs", "parameters")), "the executor input {{$}}", everything)
                continue
            for path, word in container.words():
                size = _resolved(word, values, everything)
                if size > MAX_ARGUMENT and shown(path) not in told:
                    told.add(shown(path))
                    yield _too_long(shown(path), f"with the values of task {use.name!r}, this argument", size)
        size = _bytes(container.component)
        if size > MAX_ARGUMENT:
            name = container.component.get("executorLabel", "")
            yield _too_long(shown(container.path), f"the spec of the component of {name!r}", size)


def _too_long(path: str, what: str, size: int) -> Finding:
    return Finding(
        "error",
        path,
        f"{what} has about {size:,} bytes; an argument has {MAX_ARGUMENT:,} at most: pass large data as artifacts",
    )


def _constants(use: Use) -> Mapping[str, str]:
    """Values of parameters that are known from the document, as text."""
    found = {}
    for name, spec in parameters_of(use.component).items():
        given: Any = use.parameters.get(name, {})
        value = given.get("runtimeValue", {}).get("constant", spec.get("defaultValue"))
        if value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _executor_input(container: Container, use: Use, values: Mapping[str, str]) -> int:
    """Bytes of the executor input as JSON."""
    outputs = container.component.get("outputDefinitions", {})
    names = [*use.artifacts, *outputs.get("artifacts", {}), *outputs.get("parameters", {})]
    return _bytes(values) + sum(_URI + len(name) for name in names) + _URI


def _resolved(word: str, values: Mapping[str, str], everything: int) -> int:
    """Bytes of an argument with its placeholders resolved."""
    size = len(word.encode()) + word.count("{{$}}") * everything
    return size + sum(len(values.get(name, "").encode()) for name in _PARAMETER.findall(word))


def workflow(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """A run's Workflow is one Kubernetes object."""
    size = workflow_bytes(view)
    if size > WARN_OBJECT:
        severity: Any = "error" if size > MAX_OBJECT else "warning"
        yield Finding(
            severity,
            "",
            f"a run of this is a Workflow of about {size:,} bytes; etcd takes objects of {MAX_OBJECT:,}: "
            "make fewer tasks, or shorter constants",
        )


def workflow_bytes(view: View) -> int:
    """About how many bytes a run's Workflow has.

    It holds each component's spec and each different container as JSON in a JSON text, and each task's spec once, in
    a loop three times. Measured on 147 Workflows of Kubeflow's own tests, the figure is between 6 % too small and 22 %
    too large, mostly 8 % too large.
    """
    components = sum(_escaped(component) for component in view.components.values())
    containers = sum({_text(executor): _escaped(executor) + 100 for executor in view.executors.values()}.values())
    tasks = sum(_escaped(use.task) * (3 if use.loops else 1) for use in view.uses)
    pods = sum(_escaped(pod) for pod in view.pods.values())
    labelled = {
        (len(found.get("labels", {})), len(found.get("annotations", {})), container.retried)
        for container in view.containers
        if (found := container.pod.get("podMetadata"))
    }
    specs = components + containers + tasks + pods
    return _BASE + _TASK * len(view.uses) + _LABELLED * len(labelled) + specs + specs // 20


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _bytes(value: object) -> int:
    return len(_text(value).encode())


def _escaped(value: object) -> int:
    """Bytes of JSON inside a JSON text."""
    text = _text(value)
    return len(text.encode()) + text.count('"') + 2 * text.count("\\")
