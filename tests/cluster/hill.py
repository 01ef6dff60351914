"""A component that costs nothing, for searches: best at x = 3 where the shape is round."""

from __future__ import annotations

import time

from pydantic import Field

from millrace.errors import ConfigError, TaskFailedError
from millrace.runtime.context import Context, Result
from millrace.specs import Inputs, Metric, Metrics, Outputs, Parameters, Records, component

__all__ = ["HillParameters", "hill"]


class Shape(Parameters):
    """What the hill looks like."""

    form: str = "round"
    snow: bool = False


class HillParameters(Parameters):
    """Where somebody stands."""

    x: float = Field(default=0.0, ge=-100, le=100)
    steps: int = Field(default=1, ge=1)
    shape: Shape = Shape()
    epochs: int = 2
    seconds: float = 0.0
    fault: str = ""


class HillInputs(Inputs):
    """What is read."""

    records: Records


class HillOutputs(Outputs):
    """A height."""

    metrics: Metrics
    height: Metric


hill = component(
    name="hill",
    version="1",
    description="A component that costs nothing.",
    parameters=HillParameters,
    inputs=HillInputs,
    outputs=HillOutputs,
    main=f"{__name__}:climb",
    image="train",
)


def climb(parameters: HillParameters, inputs: HillInputs, outputs: HillOutputs, context: Context) -> Result:
    """Say the height in each epoch, as training says its accuracy, and once more at the end."""
    if parameters.fault == "user":
        raise ConfigError("this can never work")
    if parameters.fault == "error":
        raise TaskFailedError("it broke")
    lift = float((inputs.records.path / "lift.txt").read_text())
    height = lift - (parameters.x - 3) ** 2 + (1 if parameters.shape.form == "round" else 0) - parameters.shape.snow
    for epoch in range(1, parameters.epochs + 1):
        print(f"epoch={epoch} epoch_height={height}", flush=True)
        time.sleep(parameters.seconds / parameters.epochs)
    return Result(metrics={"height": height})
