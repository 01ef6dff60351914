"""Charts as inline SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from millrace.runtime.charts import render_svg
from millrace.specs import ConfusionMatrix, Curve, Lines, Scatter
from millrace.specs.charts import Plot

LINES = Lines(
    name="loss",
    title="Loss",
    x_label="epoch",
    y_label="loss",
    curves=(Curve(name="train", x=(1, 2, 3), y=(3, 2, 1)), Curve(name="validation", x=(1, 2, 3), y=(3, 2, 2))),
    marked_x=2,
)
SCATTER = Scatter(
    name="trials",
    title="Trials",
    x_label="rate",
    y_label="accuracy",
    curves=(Curve(name="all", x=(0.1, 0.01), y=(0.5, 0.6)),),
    x_log=True,
)


def matrix(size: int) -> ConfusionMatrix:
    counts = tuple(tuple(7 if row == column else 0 for column in range(size)) for row in range(size))
    return ConfusionMatrix(name="m", title="M", labels=tuple(f"class {i}" for i in range(size)), counts=counts)


@pytest.mark.parametrize("chart", [LINES, SCATTER, matrix(2), matrix(200)], ids=["lines", "scatter", "two", "many"])
class TestEveryChart:
    def test_is_one_well_formed_element_without_a_fixed_size(self, chart: Plot) -> None:
        element = ElementTree.fromstring(render_svg(chart))  # noqa: S314 - our own output
        assert element.tag.endswith("svg")
        assert "viewBox" in element.attrib
        assert "width" not in element.attrib

    def test_has_the_same_bytes_each_time(self, chart: Plot) -> None:
        assert render_svg(chart) == render_svg(chart)

    def test_names_nothing_outside(self, chart: Plot) -> None:
        text = render_svg(chart).replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
        assert "http" not in text


def test_text_is_data() -> None:
    hostile = "<script>alert(1)</script> $x^2$"
    text = render_svg(LINES.model_copy(update={"title": hostile, "y_label": hostile}))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "$x^2$" in text


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    text = render_svg(SCATTER)
    assert ">0.01</text>" in text
    assert "mathdefault" not in text


def test_ids_of_two_charts_differ() -> None:
    drawn = [ElementTree.fromstring(render_svg(chart)) for chart in (LINES, SCATTER)]  # noqa: S314 - our own output
    ids = [{element.attrib["id"] for element in svg.iter() if "id" in element.attrib} for svg in drawn]
    assert not ids[0] & ids[1]


def test_few_classes_show_their_counts_and_many_do_not() -> None:
    assert render_svg(matrix(3)).count(">7</text>") == 3
    assert ">7</text>" not in render_svg(matrix(30))
