"""All figures and charts of one model on one channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millrace.components.evaluate.answers import Answers
from millrace.components.evaluate.scores import (
    ClassScores,
    Reliability,
    Roc,
    calibration_error,
    class_scores,
    confusion_counts,
    log_loss,
    macro_roc_curve,
    mean_defined,
    micro_roc_curve,
    reliability,
    roc_aucs,
    roc_curve,
    top_k_accuracy,
)
from millrace.specs import ConfusionMatrix, Curve, Lines, Plot

__all__ = ["Figures", "charts", "figures", "metrics"]

_CURVE_POINTS = 200
_CURVES = 10


@dataclass(frozen=True)
class Figures:
    """What the answers come to; NaN where undefined."""

    images: int
    confusion: NDArray[np.int64]
    by_class: ClassScores
    auc: NDArray[np.float64]
    """By class."""
    bins: Reliability
    accuracy: float
    top_k: int
    top_k_accuracy: float
    loss: float
    macro_f1: float
    roc_auc: float
    calibration_error: float


def figures(answers: Answers, top_k: int, calibration_bins: int) -> Figures:
    """Compute all figures of a model's answers."""
    classes = answers.probabilities.shape[1]
    right = answers.predicted == answers.labels
    confusion = confusion_counts(answers.labels, answers.predicted, classes)
    by_class = class_scores(confusion)
    aucs = roc_aucs(answers.probabilities, answers.labels)
    bins = reliability(answers.probabilities.max(axis=1), right, calibration_bins)
    top_k = min(top_k, classes)
    return Figures(
        images=len(right),
        confusion=confusion,
        by_class=by_class,
        auc=aucs,
        bins=bins,
        accuracy=answers.accuracy,
        top_k=top_k,
        top_k_accuracy=top_k_accuracy(answers.probabilities, answers.labels, top_k),
        loss=log_loss(answers.probabilities, answers.labels),
        macro_f1=mean_defined(by_class.f1),
        roc_auc=mean_defined(aucs),
        calibration_error=calibration_error(bins),
    )


def metrics(found: Figures, classes: Sequence[str]) -> dict[str, float]:
    """The figures by the names under which they are reported, those by class only where they are defined."""
    named = {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "macro_f1": found.macro_f1,
        "roc_auc": 0.0 if np.isnan(found.roc_auc) else found.roc_auc,
        "calibration_error": found.calibration_error,
        "top_k_accuracy": found.top_k_accuracy,
    }
    if found.top_k < len(classes):  # else it is 1 whatever the model says, and no line should begin with it
        named = {"accuracy": found.accuracy, "top_k_accuracy": found.top_k_accuracy} | named
    for kind, values in found.by_class._asdict().items():
        named |= {f"{kind}.{name}": float(value) for name, value in zip(classes, values, strict=True) if value == value}
    return named


def charts(found: Figures, answers: Answers, classes: Sequence[str]) -> tuple[Plot, ...]:
    """Confusion matrix, ROC curves (where defined) and reliability."""
    counts = tuple(tuple(row) for row in found.confusion.tolist())
    matrix = ConfusionMatrix(name="confusion_matrix", title="Confusion matrix", labels=tuple(classes), counts=counts)
    curves = _roc_curves(found, answers, classes)
    filled = found.bins.records > 0
    calibration = Lines(
        name="calibration",
        title="Calibration",
        x_label="confidence",
        y_label="accuracy",
        curves=(
            Curve(name="model", x=_values(found.bins.confidence[filled]), y=_values(found.bins.accuracy[filled])),
            Curve(name="perfect", x=(0, 1), y=(0, 1)),
        ),
    )
    if not curves:
        return matrix, calibration
    return matrix, _roc(curves), calibration


def _roc(curves: tuple[Curve, ...]) -> Lines:
    return Lines(
        name="roc",
        title="ROC, each class against the rest",
        x_label="false positive rate",
        y_label="true positive rate",
        curves=curves,
    )


def _roc_curves(found: Figures, answers: Answers, classes: Sequence[str]) -> tuple[Curve, ...]:
    macro = macro_roc_curve(answers.probabilities, answers.labels, _CURVE_POINTS - 1)
    if macro is None:
        return ()
    micro = micro_roc_curve(answers.probabilities, answers.labels)
    curves = [
        Curve(name="macro average", x=_values(macro[0]), y=_values(macro[1])),
        _roc_points("micro average", micro),
    ]
    if len(classes) <= _CURVES:
        for label in np.flatnonzero(~np.isnan(found.auc)).tolist():
            points = roc_curve(answers.probabilities[:, label], answers.labels == label)
            curves.append(_roc_points(classes[label], points))
    return tuple(curves)


def _roc_points(name: str, curve: Roc) -> Curve:
    """A curve of so many points as a chart needs, at equal steps along it: where it is steep it matters most."""
    steps = np.searchsorted(curve.false + curve.true, np.linspace(0, 2, _CURVE_POINTS))
    chosen = np.unique(np.minimum(steps, len(curve.false) - 1))
    x, y, thresholds = (_values(values[chosen]) for values in curve)
    return Curve(name=name, x=x, y=y, thresholds=thresholds)


def _values(array: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(array, 6).tolist())
