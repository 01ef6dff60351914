"""Figures of a classifier from its probabilities: NumPy only, NaN where a figure is undefined.

Throughout, `probabilities` is [N, C], `labels` is [N] with values below C, N is at least 1 and the predicted
class is the first of the most probable ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ClassScores",
    "Reliability",
    "Roc",
    "calibration_error",
    "class_scores",
    "confusion_counts",
    "log_loss",
    "macro_roc_curve",
    "mean_defined",
    "micro_roc_curve",
    "reliability",
    "roc_aucs",
    "roc_curve",
    "top_k_accuracy",
]

_MOST_DECISIONS = 10_000_000

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


class ClassScores(NamedTuple):
    """Figures by class, [C] each."""

    precision: NDArray[np.float64]
    """NaN for classes that are never predicted."""
    recall: NDArray[np.float64]
    """NaN for classes without records."""
    f1: NDArray[np.float64]
    """NaN for classes without records."""


class Reliability(NamedTuple):
    """Accuracy against confidence, by bin; NaN means for empty bins."""

    confidence: NDArray[np.float64]
    """Mean confidence."""
    accuracy: NDArray[np.float64]
    """Share of right answers."""
    records: Ints
    """Number of records."""


def confusion_counts(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts [C, C] of true classes (rows) against predicted classes (columns)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: Ints) -> ClassScores:
    """Precision, recall and F1 of each class, from confusion counts.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    right = np.diagonal(confusion)
    predicted, present = confusion.sum(axis=0), confusion.sum(axis=1)
    f1 = _divided(2 * right, predicted + present)
    return ClassScores(_divided(right, predicted), _divided(right, present), np.where(present > 0, f1, np.nan))


def top_k_accuracy(probabilities: Floats, labels: Ints, k: int) -> float:
    """Share of records whose true class is among the `k` most probable; of equal ones the first count more."""
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    ranks = ((probabilities > true) | ((probabilities == true) & before)).sum(axis=1)
    return float((ranks < k).mean())


def log_loss(probabilities: Floats, labels: Ints) -> float:
    """Mean negative logarithm (nats) of the true class's probability, which is kept off 0 by the type's epsilon.

    Source: Bishop, Pattern Recognition and Machine Learning (2006), equation 4.108.
    """
    epsilon = np.finfo(probabilities.dtype).eps
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, epsilon, 1)).mean())


def roc_aucs(probabilities: Floats, labels: Ints) -> NDArray[np.float64]:
    """Area under the ROC curve of each class against the rest, [C]; NaN without both kinds of records.

    It is the Mann-Whitney statistic: the share of pairs of a record of the class and one of the rest in
    which the first has the higher probability; ties count half. Source: Hanley and McNeil, The meaning and use
    of the area under a receiver operating characteristic (ROC) curve, Radiology 143 (1982).
    """
    areas = np.empty(probabilities.shape[1])
    for label in range(len(areas)):
        _, positives, negatives = _by_score(probabilities[:, label], labels == label)
        below = np.cumsum(negatives) - negatives
        pairs = positives.sum() * negatives.sum()
        areas[label] = (positives * (below + negatives / 2)).sum() / pairs if pairs else np.nan
    return areas


class Roc(NamedTuple):
    """An ROC curve from (0, 0) to (1, 1)."""

    false: NDArray[np.float64]
    """False positive rates."""
    true: NDArray[np.float64]
    """True positive rates."""
    thresholds: NDArray[np.float64]
    """The lowest score that counts as positive, falling; at the first point, where none does, 1 above the highest."""


def roc_curve(scores: Floats, positive: NDArray[np.bool_]) -> Roc:
    """The ROC curve of some scores, one point a distinct score after the first; both kinds must occur.

    Source: Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27 (2006), algorithm 1.
    """
    distinct, positives, negatives = _by_score(scores, positive)
    true = np.concatenate([[0.0], np.cumsum(positives[::-1])]) / positives.sum()
    false = np.concatenate([[0.0], np.cumsum(negatives[::-1])]) / negatives.sum()
    falling = distinct[::-1].astype(np.float64)
    return Roc(false, true, np.concatenate([[falling[0] + 1], falling]))


def micro_roc_curve(probabilities: Floats, labels: Ints) -> Roc:
    """The ROC curve of all decisions between a class and the rest, each record counting once a class.

    Memory is kept in bounds: of more than ten million decisions, evenly spaced records stand for all.
    """
    every = -(-probabilities.size // _MOST_DECISIONS)
    probabilities, labels = probabilities[::every], labels[::every]
    positive = labels[:, None] == np.arange(probabilities.shape[1])
    return roc_curve(probabilities.ravel(), positive.ravel())


def macro_roc_curve(
    probabilities: Floats, labels: Ints, points: int = 199
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean of the classes' ROC curves at equally spaced false positive rates; None when none is defined."""
    grid = np.linspace(0, 1, points)
    curves = []
    for label in np.unique(labels):
        positive = labels == label
        if positive.all():
            return None
        false, true, _ = roc_curve(probabilities[:, label], positive)
        last = np.append(np.diff(false) > 0, True)  # the top of each vertical step
        curves.append(np.interp(grid, false[last], true[last]))
    return np.append(0.0, grid), np.append(0.0, np.mean(curves, axis=0))


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int) -> Reliability:
    """Confidence and accuracy in bins of equal width, each without its lower and with its upper edge.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], confidence)
    count = np.bincount(index, minlength=bins)
    return Reliability(
        confidence=_divided(np.bincount(index, weights=confidence, minlength=bins), count),
        accuracy=_divided(np.bincount(index, weights=right, minlength=bins), count),
        records=count,
    )


def calibration_error(bins: Reliability) -> float:
    """Expected calibration error: mean distance of accuracy and confidence, weighted by the records of each bin.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    return float(np.nansum(np.abs(bins.accuracy - bins.confidence) * bins.records) / bins.records.sum())


def mean_defined(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _by_score(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
    """Distinct scores, lowest first, and the numbers of positive and negative records with each."""
    distinct, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    positives = np.bincount(index, weights=positive, minlength=len(counts)).astype(np.float64)
    return distinct, positives, counts.astype(np.float64) - positives


def _divided(dividend: NDArray[np.generic], divisor: Ints) -> NDArray[np.float64]:
    """The quotients, NaN where the divisor is 0."""
    quotients = np.full(divisor.shape, np.nan)
    np.divide(dividend, divisor, out=quotients, where=divisor > 0)
    return quotients
