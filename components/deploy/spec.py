"""Deploy a model: start an HTTP endpoint, ask it with real records, stop it or leave it running."""

from __future__ import annotations

from pydantic import Field

from millrace.components.deploy.limits import NAME, Limits
from millrace.specs import Endpoint, Inputs, Metric, Metrics, Model, Outputs, Parameters, Records, Resources, component

__all__ = ["DeployInputs", "DeployOutputs", "DeployParameters", "deploy"]


class DeployParameters(Limits, Parameters):
    """Where the endpoint listens, what it accepts and how it is checked."""

    name: str = Field(default="model", pattern=NAME)
    """The model's name in URLs: `/v1/models/NAME:predict`, `/v2/models/NAME/infer`."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; 0.0.0.0 makes it reachable from other machines."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    keep: bool = False
    """Leave the endpoint running; otherwise it is stopped after it was checked."""
    check_records: int = Field(default=32, ge=1, le=10_000)
    """Records that are asked and compared with the model's own answers."""
    startup_timeout_seconds: float = Field(default=240, gt=0)
    """How long loading the model may take."""


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
    """Median time of one request with one image, in milliseconds."""
    requests_per_second: Metric
    """Requests with one image answered in a second to 8 clients at once."""


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
    resources=Resources(cpus=2, memory_gib=3),
    uncached_when=("keep",),
)
