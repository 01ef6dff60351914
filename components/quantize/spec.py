"""The `quantize` component: what it takes and gives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.specs import Inputs, Metric, Metrics, Model, Outputs, Parameters, Records, Resources, component

__all__ = ["QuantizeInputs", "QuantizeOutputs", "QuantizeParameters", "quantize"]


class QuantizeParameters(Parameters):
    """How a model is made smaller, and what that may cost."""

    scheme: Literal["dynamic", "float16", "int8"] = Field(default="int8")
    """int8: weights and activations as 8-bit integers, in ranges measured on calibration records; dynamic: weights
    only, activations as they come; float16: weights in half precision. Models of texts: dynamic or float16."""
    calibration_records: int = Field(default=200, ge=1, le=100_000)
    """Records whose activations set the ranges of int8, spread evenly over the calibration channel."""
    calibration_channel: Literal["train", "validation", "test"] = Field(default="train")
    """Channel they are taken from."""
    channel: Literal["train", "validation", "test"] = Field(default="test")
    """Channel that both models are measured on."""
    maximum_drop: float | None = Field(default=None, ge=0, le=1)
    """Largest accuracy that may be lost; the task fails above it. None accepts any: a later task may judge."""
    latency_runs: int = Field(default=100, ge=1, le=100_000)
    """Answers to one record each that latency is the median of."""


class QuantizeInputs(Inputs):
    """A trained model and records to try it with."""

    model: Model
    """A Keras model, as `train` writes it."""
    records: Records
    """Record files of the size and classes that the model was trained on."""


class QuantizeOutputs(Outputs):
    """The smaller model, and how it compares with the one given."""

    model: Model
    """`model.tflite` and `model.json`, and `vocabulary.txt` for texts; takes and answers what the given model does."""
    metrics: Metrics
    """The numbers below, and a chart of size against accuracy."""
    accuracy: Metric
    """Share of the channel's records that the quantized model gets right."""
    float_accuracy: Metric
    """The same of the given model."""
    accuracy_drop: Metric
    """Accuracy of the given model less that of the quantized one; below 0 when quantizing helped."""
    agreement: Metric
    """Share of the channel's records to which both give the same class."""
    size_ratio: Metric
    """Bytes of the quantized model over those of the same LiteRT model in float32."""
    latency_ms: Metric
    """Median time (ms) in which the quantized model answers one record."""
    float_latency_ms: Metric
    """The same of the LiteRT model in float32, so that not the runtimes are compared."""


quantize = component(
    name="quantize",
    version="1",
    description="Make a trained model smaller and faster with LiteRT, and measure what that costs.",
    parameters=QuantizeParameters,
    inputs=QuantizeInputs,
    outputs=QuantizeOutputs,
    main="millrace.components.quantize.main:main",
    image="train",
    resources=Resources(cpus=2, memory_gib=4),
)
