"""For authors of components: run one without a pipeline, and the checks that every component passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.runtime.context import Share
from millrace.runtime.execute import attempt
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.specs import Component, Parameters

__all__ = ["Ran", "run_component"]


@dataclass(frozen=True)
class Ran:
    """What a component left behind."""

    outputs: dict[str, Path]
    metrics: dict[str, float]
    metadata: dict[str, dict[str, Any]]


def run_component(
    component: Component[Any, ..., Any],
    parameters: Parameters,
    directory: Path,
    *,
    share: Share = Share(),
    cores: int = 1,
    **inputs: Path | tuple[Path, ...],
) -> Ran:
    """Run a component in this process, in a fresh task directory, exactly as a worker does.

    Args:
        component: The component.
        parameters: Its parameters.
        directory: A folder to work in; outputs stay there.
        share: Which share of the shards to take, for components that are spread.
        cores: Processor cores it may use.
        **inputs: Folders or files by input port.

    Raises:
        MillraceError: What the component raised.
    """
    request = TaskRequest(
        name=component.spec.name,
        component=component.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={
            port: tuple(GivenArtifact(path=path) for path in (given if isinstance(given, tuple) else (given,)))
            for port, given in inputs.items()
        },
        share=share,
        cores=cores,
    )
    request.write(directory)
    result = attempt(directory, request)
    return Ran(
        outputs={name: directory / made.path for name, made in result.outputs.items()},
        metrics=result.metrics,
        metadata={name: made.metadata for name, made in result.outputs.items()},
    )
