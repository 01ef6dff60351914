"""Real pictures to try a pipeline on, carried by scikit-learn."""

from __future__ import annotations

from pydantic import Field

from millrace.specs import Dataset, Inputs, Outputs, Parameters, Resources, component

__all__ = ["DigitsInputs", "DigitsOutputs", "DigitsParameters", "digits"]


class DigitsParameters(Parameters):
    """Size and number of the pictures."""

    scale: int = Field(default=1, ge=1, le=64)
    """Whole factor by which the 8 x 8 pixels are enlarged; each pixel becomes a square of one value."""
    limit: int | None = Field(default=None, ge=1)
    """Most pictures of a class; all when not set."""


class DigitsInputs(Inputs):
    """Nothing: the data comes with scikit-learn."""


class DigitsOutputs(Outputs):
    """A folder of pictures."""

    dataset: Dataset
    """8-bit grey PNG files in one folder a digit."""


digits = component(
    name="digits",
    version="1",
    description="Write scikit-learn's 1,797 handwritten digits as PNG files into class folders.",
    parameters=DigitsParameters,
    inputs=DigitsInputs,
    outputs=DigitsOutputs,
    main="millrace.components.digits.main:main",
    image="data",
    resources=Resources(cpus=1, memory_gib=1),
)
