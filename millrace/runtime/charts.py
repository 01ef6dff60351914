"""Charts drawn as inline SVG, the same bytes for the same chart."""

from __future__ import annotations

import html
import io
import itertools
import re
from typing import TYPE_CHECKING, Any

from millrace.specs.charts import Chart, ConfusionMatrix, Lines, Scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["render_svg"]

_COLOURS = ("#2563a8", "#d1682b", "#2f8f5b", "#8a4fa3", "#b03a48", "#6b7280", "#0f8b8d", "#a87d0f")
_MARKS = ("-", "--", "-.", ":")
_STYLE: Any = {  # the stub lists every known key as a literal
    "svg.hashsalt": "millrace",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
    "axes.axisbelow": True,
    "text.parse_math": False,
}
_NUMBERED_CLASSES = 25
_LABELLED_CLASSES = 60


def render_svg(chart: Chart) -> str:
    """Draw a chart as an `<svg>` element that needs nothing from outside.

    Text in the chart is data and is escaped. A title and a description make it readable aloud.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_size(chart), layout="constrained")
        axes = figure.add_subplot()
        if isinstance(chart, ConfusionMatrix):
            _draw_matrix(figure, axes, chart)
        else:
            _draw_curves(axes, chart)
        axes.set_title(chart.title, loc="left", fontsize=10, fontweight="bold")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), chart)


def _size(chart: Chart) -> tuple[float, float]:
    if isinstance(chart, ConfusionMatrix):
        side = min(9.0, 3.0 + 0.28 * len(chart.labels))
        return side + 0.8, side
    return 5.4, 3.4


def _draw_curves(axes: Axes, chart: Lines | Scatter) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for index, curve in enumerate(chart.curves):
        colour = _COLOURS[index % len(_COLOURS)]
        if isinstance(chart, Scatter):
            axes.scatter(curve.x, curve.y, s=26, color=colour, alpha=0.8, label=curve.name)
        else:
            dash = _MARKS[index // len(_COLOURS) % len(_MARKS)]
            mark = "o" if len(curve.x) == 1 else ""
            axes.plot(curve.x, curve.y, dash, marker=mark, color=colour, linewidth=1.6, label=curve.name)
    if chart.marked_x is not None:
        axes.axvline(chart.marked_x, color="#6b7280", linewidth=1, linestyle=":")
    if chart.x_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
    elif all(x.is_integer() for curve in chart.curves for x in curve.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.y_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if len(chart.curves) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=1 + len(chart.curves) // 9)


def _plain_number(value: float, position: int | None = None) -> str:
    return f"{value:g}"


def _draw_matrix(figure: Figure, axes: Axes, chart: ConfusionMatrix) -> None:
    totals = [max(1, sum(row)) for row in chart.counts]
    shares = [[count / total for count in row] for row, total in zip(chart.counts, totals, strict=True)]
    size = len(chart.labels)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.grid(visible=False)
    ticks = range(size) if size <= _LABELLED_CLASSES else []
    axes.set_xticks(ticks, [chart.labels[tick] for tick in ticks], rotation=90 if size > 6 else 0)
    axes.set_yticks(ticks, [chart.labels[tick] for tick in ticks])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of the true class")
    if size > _NUMBERED_CLASSES:
        return
    for row, column in itertools.product(range(size), repeat=2):
        if chart.counts[row][column]:
            colour = "white" if shares[row][column] > 0.5 else "#1f2937"
            axes.text(column, row, str(chart.counts[row][column]), ha="center", va="center", color=colour, fontsize=7)


def _inline(svg: str, chart: Chart) -> str:
    """Only the element itself: no XML prologue, no fixed size, ids of this chart's own, and a title."""
    element = svg[svg.index("<svg") :]
    head, rest = element.split(">", 1)
    viewbox = re.search(r'viewBox="[^"]*"', head)
    prefix = re.sub(r"\W+", "-", chart.name)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", rest)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'class="chart" {viewbox.group(0) if viewbox else ""}>'
        f"<title>{html.escape(chart.title)}</title><desc>{html.escape(_description(chart))}</desc>{rest.strip()}"
    )


def _description(chart: Chart) -> str:
    if isinstance(chart, ConfusionMatrix):
        right = sum(chart.counts[index][index] for index in range(len(chart.labels)))
        total = sum(map(sum, chart.counts))
        return f"{len(chart.labels)} classes; {right} of {total} on the diagonal"
    names = ", ".join(curve.name for curve in chart.curves)
    return f"{chart.y_label} over {chart.x_label}: {names}"
