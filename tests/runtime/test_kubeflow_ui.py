"""What is put into artifact metadata for Kubeflow's UI."""

from __future__ import annotations

from typing import Any, cast

import pytest
from kfp import dsl
from pydantic import ValidationError

from millrace.components.evaluate.spec import evaluate
from millrace.runtime.kubeflow_ui import chart_metadata, metrics_metadata, summary_page
from millrace.specs import ConfusionMatrix, Curve, Lines, Scatter


def matrix(*counts: tuple[int, ...]) -> ConfusionMatrix:
    labels = tuple(f"class {number}" for number in range(len(counts)))
    return ConfusionMatrix(name="confusion_matrix", title="", labels=labels, counts=counts)


def roc(*curves: Curve) -> Lines:
    return Lines(name="roc", title="", x_label="", y_label="", curves=curves)


def test_a_confusion_matrix_has_the_form_of_the_sdk() -> None:
    expected = dsl.ClassificationMetrics()
    expected.log_confusion_matrix(["class 0", "class 1"], [[5, 1], [0, 7]])
    assert chart_metadata(matrix((5, 1), (0, 7))) == expected.metadata


def test_a_large_confusion_matrix_keeps_the_worst_classes_and_every_mistake() -> None:
    size = 300
    counts = [[0] * size for _ in range(size)]
    for number in range(size):
        counts[number][number] = 10
    counts[250][7] = 5
    for number in range(100, 160):
        counts[number][number + 1] = 1
    found = cast("Any", chart_metadata(matrix(*(tuple(row) for row in counts))))["confusionMatrix"]
    labels = [spec["displayName"] for spec in found["annotationSpecs"]]
    rows = [item["row"] for item in found["rows"]]
    assert len(labels) == len(rows) == 40
    assert labels[-1] == "mistakes of 261 other classes"
    assert rows[labels.index("class 250")][labels.index("class 7")] == 5
    assert sum(map(sum, rows)) - sum(rows[index][index] for index in range(39)) == 65
    assert [rows[index][index] for index in range(39)] == [10] * 39


def test_a_roc_curve_has_the_form_of_the_sdk() -> None:
    curve = Curve(name="a", x=(0, 0.5, 1), y=(0, 1, 1), thresholds=(1.9, 0.9, 0.1))
    expected = dsl.ClassificationMetrics()
    expected.log_roc_curve([0.0, 0.5, 1.0], [0.0, 1.0, 1.0], [1.9, 0.9, 0.1])
    found = chart_metadata(roc(Curve(name="mean", x=(0, 1), y=(0, 1)), curve))
    assert found == expected.metadata


def test_a_roc_curve_ends_where_it_ended_however_many_points_it_has() -> None:
    many = tuple(number / 10_000 for number in range(10_001))
    curve = Curve(name="a", x=many, y=many, thresholds=tuple(1 - value for value in many))
    points = cast("Any", chart_metadata(roc(curve)))["confidenceMetrics"]
    assert len(points) <= 401
    assert (points[0]["recall"], points[-1]["recall"]) == (0, 1)
    thresholds = [point["confidenceThreshold"] for point in points]
    assert thresholds == sorted(thresholds, reverse=True)


def test_other_charts_have_no_form_there() -> None:
    chart = Scatter(name="s", title="", x_label="", y_label="", curves=(Curve(name="a", x=(1,), y=(1,)),))
    assert chart_metadata(chart) == {}


def test_all_declared_metrics_come_first_and_the_others_as_far_as_the_store_takes_them() -> None:
    declared = {metric.name: 0.5 for metric in evaluate.spec.metrics}
    others = {f"f1.{name}": 0.25 for name in ("Cat", "cat", "café", "cafe", "x" * 300, *map(str, range(500)))}
    found = metrics_metadata(evaluate.spec, others | declared)
    assert list(found)[: len(declared)] == list(declared)
    assert [name for name in found if name.startswith(("f1.ca", "f1.Ca"))] == ["f1.Cat", "f1.café"]
    assert len(found) == 200
    assert max(map(len, found)) <= 255


def test_the_summary_names_each_metric_with_its_value_and_meaning() -> None:
    values = {metric.name: 0.123456789 for metric in evaluate.spec.metrics}
    page = summary_page("measured", evaluate.spec, values | {"f1.cat": 1.0})
    assert page.startswith("# measured\n")
    assert "| accuracy | 0.123457 | Share of records whose most probable class is the true one. |" in page
    assert "1 more are in the artifact `metrics`." in page


def test_a_curve_has_a_threshold_for_each_point() -> None:
    with pytest.raises(ValidationError, match="curve 'a' has 2 points and 1 thresholds"):
        Curve(name="a", x=(0, 1), y=(0, 1), thresholds=(0.5,))
