"""Charts as inline SVG for pages: no script, no reference to anything outside, the same bytes each time.

Matplotlib is imported when a chart is drawn, without pyplot and its global state.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from millrace.specs import ConfusionMatrix, Curve, Lines, Plot, Scatter

__all__ = ["render_svg"]

_COLOURS = (
    *("#2563eb", "#ea580c", "#059669", "#c026d3", "#a16207"),
    *("#0891b2", "#dc2626", "#4f46e5", "#4d7c0f", "#57534e"),
)
"""Each at least 3 to 1 against white (WCAG 1.4.11)."""
_DASHES = ("-", "--", "-.", ":")
_INK, _QUIET, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_MOST_NUMBERED = 20
_MOST_NAMED = 40
_MOST_IN_LEGEND = 12
_MOST_INSIDE = 4
_LONGEST_NAME = 24


def render_svg(chart: Plot) -> str:
    """A chart as one `<svg>` element, to be put into a page as it is.

    It scales with the width it is given, has a title and a description for screen readers, and its
    text is text. Names and labels are escaped. Points that a logarithmic axis can't show are left out.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _style(chart.name):
        figure = Figure(
            figsize=_size(chart), layout="compressed" if isinstance(chart, ConfusionMatrix) else "constrained"
        )
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if isinstance(chart, ConfusionMatrix):
            _draw_matrix(axes, chart)
        else:
            _draw_curves(axes, chart)
        stream = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=metadata, bbox_inches="tight", pad_inches=0.08)
    return _inline(stream.getvalue(), chart)


@contextmanager
def _style(name: str) -> Iterator[None]:
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = {
        "svg.hashsalt": f"millrace {name}",  # ids are the same each time, and differ between charts of one page
        "svg.fonttype": "none",
        "text.parse_math": False,  # a class may be called $x$
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": _QUIET,
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=_COLOURS),
        "grid.color": _GRID,
        "text.color": _INK,
        "xtick.color": _QUIET,
        "ytick.color": _QUIET,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        yield


def _size(chart: Plot) -> tuple[float, float]:
    """Width and height in inches of 72 points."""
    if isinstance(chart, ConfusionMatrix):
        side = min(9.0, max(4.2, 2.2 + 0.36 * len(chart.labels)))
        return side + 0.8, side
    return 6.4, 4.0


def _draw_curves(axes: Any, chart: Lines | Scatter) -> None:
    axes.set_xlabel(_clean(chart.x_label))
    axes.set_ylabel(_clean(chart.y_label))
    axes.grid(visible=True, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xscale("log" if chart.x_log else "linear")
    axes.set_yscale("log" if chart.y_log else "linear")
    if not chart.x_log and all(x.is_integer() for curve in chart.curves for x in curve.x):
        axes.xaxis.get_major_locator().set_params(integer=True)
    for index, curve in enumerate(chart.curves):
        _draw_curve(axes, chart, curve, index)
    if chart.marked_x is not None:
        axes.axvline(chart.marked_x, color=_QUIET, linewidth=1, linestyle="--")
    for axis, log in ((axes.xaxis, chart.x_log), (axes.yaxis, chart.y_log)):
        if log:
            _label_decades(axis)
    if len(chart.curves) > 1:
        _legend(axes, len(chart.curves))


def _draw_curve(axes: Any, chart: Lines | Scatter, curve: Curve, index: int) -> None:
    pairs = zip(curve.x, curve.y, strict=True)
    points = [(x, y) for x, y in pairs if (x > 0 or not chart.x_log) and (y > 0 or not chart.y_log)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    # matplotlib leaves out labels that start with an underscore
    named = {"label": _shortened(curve.name).lstrip("_") or " ", "gid": f"curve-{index}"}
    if isinstance(chart, Scatter):
        axes.scatter(xs, ys, s=28, alpha=0.8, linewidths=0, **named)
    else:
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        axes.plot(xs, ys, dash, linewidth=1.8, marker="o" if len(points) == 1 else "", **named)


def _label_decades(axis: Any) -> None:
    """Plain numbers on a logarithmic axis; where it spans little, steps within a decade have them as well."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if high / low < 20:
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    else:
        axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, curves: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    shown = labels[:_MOST_IN_LEGEND]
    if curves > len(shown):
        shown[-1] = f"{shown[-1]} and {curves - len(shown)} more"
    if curves > _MOST_INSIDE:
        axes.figure.legend(handles[: len(shown)], shown, loc="outside right upper", fontsize=9)
    else:
        axes.legend(handles, labels, fontsize=9)


def _draw_matrix(axes: Any, chart: ConfusionMatrix) -> None:
    """Colour is the share of the true class, so that rare classes can be read; numbers are counts."""
    size = len(chart.labels)
    shares = [[count / (sum(row) or 1) for count in row] for row in chart.counts]
    picture = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="equal")
    picture.set_gid("cells")
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if size <= _MOST_NUMBERED:
        _number_cells(axes, chart.counts, shares)
    step = math.ceil(size / _MOST_NAMED)
    ticks = list(range(0, size, step))
    names = [_shortened(chart.labels[tick]) for tick in ticks]
    upright = max(map(len, names)) > 3 or size > _MOST_NUMBERED
    small = 9 if size <= _MOST_NUMBERED else 7
    axes.set_xticks(ticks, names, rotation=90 if upright else 0, fontsize=small)
    axes.set_yticks(ticks, names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number_cells(axes: Any, counts: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    size = 10 if len(counts) <= 12 else 7
    for row, (numbers, parts) in enumerate(zip(counts, shares, strict=True)):
        for column, (number, part) in enumerate(zip(numbers, parts, strict=True)):
            if number:
                ink = "white" if part > 0.55 else _INK
                axes.text(column, row, f"{number}", ha="center", va="center", color=ink, fontsize=size)


def _shortened(name: str) -> str:
    line = "".join(sign if sign.isprintable() else "?" for sign in name)
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _inline(document: str, chart: Plot) -> str:
    """The `<svg>` element of a document: scaled by the page, with a title and a description."""
    svg = document[document.index("<svg") :]
    tag, _, rest = svg.partition(">")
    tag = re.sub(r' (width|height|xmlns:xlink|xmlns|version)="[^"]*"', "", tag)
    width = re.search(r'viewBox="0 0 ([\d.]+) ', tag)
    style = f'style="max-width:{float(width[1]) * 4 / 3:.0f}px;width:100%;height:auto"' if width else ""
    key = re.sub(r"[^A-Za-z0-9]+", "-", chart.name).strip("-") or "chart"
    rest = re.sub(r"\s*<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).rstrip()
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", rest)  # several charts share a page
    head = (
        f'{tag} class="chart" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{style} role="img" aria-labelledby="{key}-title {key}-text">\n'
        f'<title id="{key}-title">{escape(_clean(chart.title))}</title>\n'
        f'<desc id="{key}-text">{escape(_clean(_description(chart)))}</desc>'
    )
    return f"{head}{rest}\n"


def _clean(text: str) -> str:
    """Without what XML does not allow, escaped or not."""
    return "".join(sign for sign in text if sign.isprintable() or sign == " ")


def _description(chart: Plot) -> str:
    if isinstance(chart, ConfusionMatrix):
        total = sum(map(sum, chart.counts))
        right = sum(row[index] for index, row in enumerate(chart.counts))
        return f"{len(chart.labels)} true classes by predicted classes: {right} of {total} on the diagonal"
    names = ", ".join(curve.name for curve in chart.curves[:_MOST_IN_LEGEND])
    more = len(chart.curves) - _MOST_IN_LEGEND
    return f"{chart.y_label} by {chart.x_label}: {names}{f' and {more} more' if more > 0 else ''}"
