"""What Kubeflow's UI shows of a task: its metrics, confusion matrix, ROC curve and summary.

The UI draws from artifact metadata, each form in its own way, and gets slow or fails on much of it: what is left
out here is in the artifact's files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from millrace.specs import Chart, ComponentSpec, ConfusionMatrix, Lines

__all__ = ["chart_metadata", "metrics_metadata", "summary_page"]

_MOST_METRICS = 200
_LONGEST_NAME = 255
_MOST_CLASSES = 40
_MOST_POINTS = 400


def metrics_metadata(spec: ComponentSpec, metrics: Mapping[str, float]) -> dict[str, JsonValue]:
    """Metadata of a system.Metrics artifact: the declared metrics, then others as far as the store takes them.

    Its table of properties compares names without regard to case and accents, and cuts none short.
    """
    declared = [metric.name for metric in spec.metrics]
    chosen: dict[str, JsonValue] = {}
    taken: set[str] = set()
    for name in [*declared, *(name for name in metrics if name not in declared)]:
        same = _folded(name)
        if same in taken or len(name) > _LONGEST_NAME or len(chosen) >= max(_MOST_METRICS, len(declared)):
            continue
        taken.add(same)
        chosen[name] = metrics[name]
    return chosen


def chart_metadata(chart: Chart) -> dict[str, JsonValue]:
    """Metadata of a system.ClassificationMetrics artifact."""
    form: Callable[[Any], dict[str, JsonValue]] | None = _FORMS.get(type(chart))
    return form(chart) if form else {}


def summary_page(task: str, spec: ComponentSpec, metrics: Mapping[str, float]) -> str:
    """The summary of a task in Markdown: its declared metrics and what they mean."""
    rows = [f"| {metric.name} | {metrics[metric.name]:.6g} | {_cell(metric.description)} |" for metric in spec.metrics]
    more = len(metrics) - len(spec.metrics)
    lines = [f"# {task}", "", _cell(spec.description), ""]
    if rows:
        lines += ["| metric | value | meaning |", "|---|---:|---|", *rows, ""]
    if more > 0:
        lines += [f"{more} more are in the artifact `metrics`.", ""]
    return "\n".join(lines)


def _matrix(chart: ConfusionMatrix) -> dict[str, JsonValue]:
    small = _smaller(chart)
    return {
        "confusionMatrix": {
            "annotationSpecs": [{"displayName": label} for label in small.labels],
            "rows": [{"row": list(row)} for row in small.counts],
        }
    }


def _smaller(chart: ConfusionMatrix) -> ConfusionMatrix:
    """The matrix with the classes that are mistaken least put together, when there are too many for a screen.

    Of these only mistakes are counted: the UI's colours are shares of the largest count, and their right answers
    would make all others white.
    """
    classes = range(len(chart.labels))
    if len(chart.labels) <= _MOST_CLASSES:
        return chart
    mistakes = [
        sum(chart.counts[one]) + sum(row[one] for row in chart.counts) - 2 * chart.counts[one][one] for one in classes
    ]
    kept = sorted(sorted(classes, key=lambda one: (-mistakes[one], one))[: _MOST_CLASSES - 1])
    others = [one for one in classes if one not in set(kept)]
    groups = [*([one] for one in kept), others]
    counts = tuple(
        tuple(
            sum(chart.counts[true][said] for true in rows for said in columns if true != said or len(rows) == 1)
            for columns in groups
        )
        for rows in groups
    )
    labels = (*(chart.labels[one] for one in kept), f"mistakes of {len(others)} other classes")
    return chart.model_copy(update={"labels": labels, "counts": counts})


def _roc(chart: Lines) -> dict[str, JsonValue]:
    """The first curve whose thresholds are known; a threshold of 0 stands for one that is not."""
    curve = next((curve for curve in chart.curves if curve.thresholds), chart.curves[0])
    thresholds = curve.thresholds or (0.0,) * len(curve.x)
    points = sorted(zip(curve.x, curve.y, thresholds, strict=True), key=lambda point: (-point[2], point[0], point[1]))
    step = -(-len(points) // _MOST_POINTS)
    shown = [*points[:-1:step], points[-1]] if points else []
    return {
        "confidenceMetrics": [
            {"confidenceThreshold": threshold, "falsePositiveRate": false, "recall": true}
            for false, true, threshold in shown
        ]
    }


_FORMS: dict[type[Chart], Callable[[Any], dict[str, JsonValue]]] = {ConfusionMatrix: _matrix, Lines: _roc}


def _folded(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name.casefold())
    return "".join(sign for sign in parts if not unicodedata.combining(sign)).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
