"""The `evaluate` component: what it takes and gives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.specs import (
    Inputs,
    Metric,
    Metrics,
    Model,
    Outputs,
    Parameters,
    Predictions,
    Records,
    Report,
    Resources,
    component,
)

__all__ = ["EvaluateInputs", "EvaluateOutputs", "EvaluateParameters", "evaluate"]


class EvaluateParameters(Parameters):
    """Measure a classifier on records, compare it with candidates and show where it errs."""

    channel: Literal["train", "validation", "test"] = Field(default="test")
    """The records to measure on."""
    batch_size: int = Field(default=64, ge=1, le=65_536)
    """Records answered at once; it does not change the figures."""
    top_k: int = Field(default=5, ge=1)
    """An answer counts in top_k_accuracy when the true class is among that many; at most the number of classes."""
    tolerance: float = Field(default=0.005, ge=0, le=1)
    """The simplest model within this accuracy of the best one is named, when there are candidates."""
    latency_runs: int = Field(default=50, ge=1, le=10_000)
    """Answers for one record that are timed for latency_ms."""
    calibration_bins: int = Field(default=15, ge=2, le=1000)
    """Bins of equal width over the confidence, for calibration_error."""
    mistakes: int = Field(default=24, ge=0, le=500)
    """How many of the most confident mistakes the report shows."""


class EvaluateInputs(Inputs):
    """What is measured, on what."""

    model: Model
    """The model that the metrics are about."""
    records: Records
    """Record files of the channel and, for the overfit gap, of the train channel."""
    candidates: tuple[Model, ...] = ()
    """Other models of the same classes and input size, to compare with."""


class EvaluateOutputs(Outputs):
    """Figures, and a page about them.

    A figure that is undefined on the records is reported as the worst value, so that no gate passes on it.
    """

    report: Report
    """Figures, plots, candidates and the most confident mistakes on one page."""
    predictions: Predictions
    """What `model` answers about each record of the channel, its true class, and whether that is right:
    `answers-NNNNN.parquet`."""
    metrics: Metrics
    """All figures, and `precision.CLASS`, `recall.CLASS` and `f1.CLASS` where defined."""
    accuracy: Metric
    """Share of records whose most probable class is the true one."""
    top_k_accuracy: Metric
    """Share of records whose true class is among the `top_k` most probable."""
    loss: Metric
    """Log loss: mean negative logarithm (nats) of the true class's probability."""
    macro_f1: Metric
    """Mean F1 of the classes in the channel."""
    roc_auc: Metric
    """Mean area under the ROC curve of the classes in the channel, one against the rest; 0 when undefined."""
    calibration_error: Metric
    """Expected calibration error: mean distance of confidence and accuracy."""
    overfit_gap: Metric
    """Accuracy on the train channel minus `accuracy`; 1 when there are no train records."""
    latency_ms: Metric
    """Median time of an answer for one record, in milliseconds."""
    size_bytes: Metric
    """Size of the model file in bytes."""


evaluate = component(
    name="evaluate",
    version="3",
    description="Measure a classifier, compare it with candidates and show its mistakes.",
    parameters=EvaluateParameters,
    inputs=EvaluateInputs,
    outputs=EvaluateOutputs,
    main="millrace.components.evaluate.main:main",
    image="train",
    charts=("confusion_matrix", "roc"),
    resources=Resources(cpus=2, memory_gib=4),
)
