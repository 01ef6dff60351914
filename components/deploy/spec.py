"""Deploy a model: start an HTTP endpoint, ask it with real records, stop it or leave it running."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from millrace.runtime.limits import NAME, Limits
from millrace.specs import Endpoint, Inputs, Metric, Metrics, Model, Outputs, Parameters, Records, Resources, component

__all__ = ["Canary", "DeployInputs", "DeployOutputs", "DeployParameters", "Scaling", "deploy"]


class Scaling(Parameters):
    """How many copies of the endpoint run."""

    min_replicas: int = Field(default=1, ge=0)
    """Copies at the least; 0 stops the last one when nobody asks, where the target can."""
    max_replicas: int = Field(default=1, ge=1)
    """Copies at the most."""
    metric: Literal["concurrency", "rps", "cpu", "memory"] | None = None
    """What is held at the target by starting and stopping copies; null leaves it to the target."""
    target: int | None = Field(default=None, ge=1)
    """Requests at a time (concurrency), requests a second (rps) or percent of what a copy asked for (cpu, memory)."""

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, more than max_replicas ({self.max_replicas})")
        if self.target is not None and self.metric is None:
            raise ValueError(f"target is {self.target} of nothing: name the metric")
        if self.metric in ("cpu", "memory") and self.target is not None and self.target > 100:
            raise ValueError(f"target is {self.target}, allowed for metric {self.metric}: 1 to 100 percent")
        return self


class Canary(Parameters):
    """How a new model takes over from the one that is served."""

    percent: int = Field(default=10, ge=0, le=99)
    """Share of the requests that the new model answers while it is checked; 0: only the checks ask it."""
    promote: bool = True
    """Give it all requests once the checks pass; otherwise it stays at its share until the next run."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    """The checks fail when the median time of a request is longer."""
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    """The checks fail when its share of right answers about the records is smaller than the present model's by more."""


class DeployParameters(Limits, Parameters):
    """Where the endpoint listens, what it accepts and how it is checked."""

    name: str = Field(default="model", pattern=NAME)
    """The model's name in URLs: `/v1/models/NAME:predict`, `/v2/models/NAME/infer`."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on, on this machine; 0.0.0.0 makes it reachable from other machines."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on, on this machine; 0 takes a free one."""
    keep: bool = False
    """Leave the endpoint running; otherwise it is stopped after it was checked. One of a cluster always stays."""
    scaling: Scaling | None = None
    """Copies of the endpoint, on a cluster; null is one."""
    canary: Canary | None = None
    """Let a new model take over step by step, on a cluster; null gives it all requests at once."""
    check_records: int = Field(default=32, ge=1, le=10_000)
    """Records that are asked and compared with the model's own answers."""
    startup_timeout_seconds: float = Field(default=240, gt=0)
    """How long loading the model may take; on a cluster with fetching the image and the model."""


class DeployInputs(Inputs):
    """What deploy reads."""

    model: Model
    """The model to serve, Keras or LiteRT."""
    records: Records
    """Real data to ask with: test records, or what there is."""


class DeployOutputs(Outputs):
    """What deploy writes."""

    endpoint: Endpoint
    """Where the model answers."""
    metrics: Metrics
    agreement: Metric
    """Share of the endpoint's answers that equal the model's own, over all protocols; less than 1 fails the task."""
    latency_ms: Metric
    """Median time of one request with one record, in milliseconds."""
    requests_per_second: Metric
    """Requests with one record answered in a second to 8 clients at once."""


deploy = component(
    name="deploy",
    version="1",
    description="Start an HTTP endpoint for a model and check that its answers equal the model's own.",
    parameters=DeployParameters,
    inputs=DeployInputs,
    outputs=DeployOutputs,
    main="millrace.components.deploy.main:main",
    image="serve",
    delegates=("serving",),
    refuses="millrace.components.deploy.refusals:refuse",
    resources=Resources(cpus=2, memory_gib=3),
    uncached_when=("keep",),
)
