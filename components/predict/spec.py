"""Predict: a model's answers about every picture of a folder."""

from __future__ import annotations

from pydantic import Field

from millrace.specs import Dataset, Distribution, Inputs, Model, Outputs, Parameters, Predictions, Resources, component

__all__ = ["PredictInputs", "PredictOutputs", "PredictParameters", "predict"]


class PredictParameters(Parameters):
    """How pictures are read and asked about."""

    max_error_rate: float = Field(default=0, ge=0, le=1)
    """Largest part of a worker's objects that may be no readable pictures, rounded up to whole objects; 0 allows
    none."""
    max_batch_size: int = Field(default=32, ge=1, le=4096)
    """Images that the model is given at once."""
    max_megapixels: float = Field(default=32, gt=0, le=1000)
    """Size of one picture in million pixels, checked before it is decoded."""


class PredictInputs(Inputs):
    """What is asked, and about what."""

    dataset: Dataset
    """Pictures, in any folders."""
    model: Model
    """The model, Keras or LiteRT."""


class PredictOutputs(Outputs):
    """What it says."""

    predictions: Predictions
    """`KEY.out` for each picture, as an endpoint would answer; `rejected-I-of-N.jsonl` where some could not be read."""


predict = component(
    name="predict",
    version="1",
    description="Ask a model about every picture of a folder, and write one answer a picture.",
    parameters=PredictParameters,
    inputs=PredictInputs,
    outputs=PredictOutputs,
    main="millrace.components.predict.main:main",
    image="serve",
    delegates=("inference",),
    refuses="millrace.components.predict.refusals:refuse",
    resources=Resources(cpus=2, memory_gib=3),
    distribution=Distribution(mode="shards"),
)
