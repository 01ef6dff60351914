"""What a component is, as data: ports, parameters, metrics, image, resources, distribution."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from millrace.specs.artifacts import ArtifactType
from millrace.specs.frozen import Frozen

__all__ = [
    "ChartName",
    "ComponentSpec",
    "Distribution",
    "Inputs",
    "MetricSpec",
    "Name",
    "Outputs",
    "Parameters",
    "Port",
    "Resources",
    "Retries",
    "Service",
]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""Lower-case snake case: the form that every target can carry."""

Reference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]
"""`module:attribute`."""


ChartName = Literal["confusion_matrix", "roc"]
"""Names of charts that a target's UI knows: a `ConfusionMatrix` and, as `Lines`, ROC curves."""

Service = Literal["training", "tuning", "serving", "inference"]
"""Kinds of work that a target may have a service for."""


class Parameters(Frozen):
    """Base of a component's parameters: values, each with its default and limits."""


class Inputs(Frozen):
    """Base of a component's inputs: `Artifact`, `Artifact | None` or `tuple[Artifact, ...]` fields."""


class Outputs(Frozen):
    """Base of a component's outputs: `Artifact` fields, and `Metric` fields for numbers it reports.

    A component that reports metrics also declares `metrics: Metrics`, where they are written.
    """


class Port(Frozen):
    """One input or output."""

    name: str
    artifact: ArtifactType
    description: str = ""
    optional: bool = False
    many: bool = False
    """Takes any number of artifacts (inputs only)."""


class MetricSpec(Frozen):
    """A number that a component reports."""

    name: str
    description: str = ""


class Resources(Frozen):
    """What one worker of a task needs."""

    cpus: float = Field(default=1, gt=0)
    """Processor cores."""
    memory_gib: float = Field(default=2, gt=0)
    """Memory in GiB."""
    gpus: int = Field(default=0, ge=0)
    """Whole GPUs. On this machine TensorFlow takes those that it finds."""
    disk_gib: int = Field(default=30, ge=1)
    """Scratch volume in GiB; where a target asks for one."""
    timeout_minutes: float = Field(default=24 * 60, gt=0)
    """The task is ended when it runs longer."""


class Retries(Frozen):
    """How often a task is tried again after a transient error."""

    limit: int = Field(default=2, ge=0, le=30)
    """Attempts after the first."""
    backoff_seconds: float = Field(default=2, ge=0)
    """Wait before the first of them."""
    factor: float = Field(default=2, ge=1)
    """By how much each wait is longer than the one before."""

    def delay(self, attempt: int) -> float:
        """Seconds to wait before attempt `attempt` (1 is the first retry)."""
        return float(self.backoff_seconds * self.factor ** (attempt - 1))


class Distribution(Frozen):
    """How the work of one task may be divided."""

    mode: Literal["single", "shards", "ranks"] = "single"
    """single: one worker; shards: independent workers, each with its share of the shards; ranks:
    workers that exchange gradients."""
    hosts: int = Field(default=1, ge=1)
    """Machines, for ranks."""
    processes: int = Field(default=1, ge=1)
    """Ranks a host."""


class ComponentSpec(Frozen):
    """A component as data: everything that a compiler or a page of documentation needs."""

    name: Name
    version: str
    """Raise it when the same parameters and inputs no longer give the same outputs."""
    description: str
    entry: Reference
    """`module:attribute` of the component itself."""
    main: Reference
    """`module:attribute` of the function that does the work in a container."""
    image: str
    """Name of the image under containers/, or a full reference."""
    parameters: dict[str, JsonValue]
    """JSON schema of the parameters."""
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    metrics: tuple[MetricSpec, ...] = ()
    resources: Resources = Resources()
    retries: Retries = Retries()
    distribution: Distribution = Distribution()
    charts: tuple[ChartName, ...] = ()
    """Charts it always reports that a target's UI has a form of its own for."""
    delegates: tuple[Service, ...] = ()
    """Kinds of work that it hands to a service of the target, where the target has one and is asked to."""
    refuses: Reference | None = None
    """`module:function` that refuses, while a document is compiled, what the target's service can't do: called with
    the parameters, the names of the connected inputs and the work that is handed over. It imports nothing heavy."""
    uncached_when: tuple[str, ...] = ()
    """Parameters, dotted where they are in another, which make a task read or change the world outside the pipeline
    when they are set and no `sha256` beside them says what is there: such a task runs each time, and the contents of
    its outputs decide whether later tasks run."""

    def input(self, name: str) -> Port | None:
        """The input called `name`, if there is one."""
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Port | None:
        """The output called `name`, if there is one."""
        return next((port for port in self.outputs if port.name == name), None)
