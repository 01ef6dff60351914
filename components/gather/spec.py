"""The `gather` component: what it takes and gives."""

from __future__ import annotations

from millrace.specs import Artifact, Inputs, Outputs, Parameters, Resources, component

__all__ = ["GatherInputs", "GatherOutputs", "GatherParameters", "gather"]


class GatherParameters(Parameters):
    """None: what is put together decides on everything."""


class GatherInputs(Inputs):
    """What is put together."""

    parts: tuple[Artifact, ...] = ()
    """Folders of one kind, of several workers for one."""


class GatherOutputs(Outputs):
    """What it becomes."""

    whole: Artifact
    """Every file of every part."""


gather = component(
    name="gather",
    version="1",
    description="Put what several workers made into one artifact.",
    parameters=GatherParameters,
    inputs=GatherInputs,
    outputs=GatherOutputs,
    main="millrace.components.gather.main:main",
    image="data",
    resources=Resources(cpus=1, memory_gib=1),
)
