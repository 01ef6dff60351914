"""The page about a model: figures, plots, candidates and mistakes, with all it shows inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from millrace.components.evaluate.answers import Mistake
from millrace.components.evaluate.comparison import Compared
from millrace.components.evaluate.figures import Figures
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.runtime.answer_tables import Confusion
from millrace.runtime.charts import render_svg
from millrace.runtime.pages import page_environment, size
from millrace.runtime.schemas import ModelCard
from millrace.runtime.texts import decode
from millrace.specs import Plot

__all__ = ["CONFUSIONS", "URIS", "Findings", "write_report"]

CONFUSIONS = 20
"""Pairs of classes that the page lists."""
URIS = 3
"""Of each."""

_NAMES = 10
_CHARACTERS = 280


@dataclass(frozen=True)
class Findings:
    """What the page tells."""

    parameters: EvaluateParameters
    card: ModelCard
    figures: Figures
    metrics: Mapping[str, float]
    undefined: frozenset[str]
    """Metrics that stand for an undefined figure."""
    charts: tuple[Plot, ...]
    mistakes: tuple[Mistake, ...]
    confusions: Sequence[Confusion]
    vocabulary: tuple[str, ...]
    """Of records of texts."""
    models: tuple[Compared, ...]
    """The model and the candidates."""
    chosen: int
    """Index of the simplest of `models`."""


class _ClassRow(NamedTuple):
    name: str
    images: int
    figures: tuple[str, ...]
    """Precision, recall, F1 and AUC."""
    confused: str
    """The class it is most often taken for."""


def write_report(path: Path, findings: Findings) -> None:
    """Write the page. Class names and URIs are data and are escaped; nothing is loaded from outside."""
    classes = findings.card.records.classes
    page = (
        _environment()
        .get_template("report.html")
        .render(
            card=findings.card,
            channel=findings.parameters.channel,
            figures=findings.figures,
            wrong=findings.figures.images - int(np.diagonal(findings.figures.confusion).sum()),
            metrics=_metric_rows(findings),
            notes=list(_notes(findings, classes)),
            charts=[(chart, Markup(render_svg(chart))) for chart in findings.charts],  # noqa: S704 - escaped there
            rows=list(_class_rows(findings.figures, classes)),
            kind=findings.card.records.kind,
            things=findings.card.records.things,
            mistakes=[(mistake, _shown(mistake, findings)) for mistake in findings.mistakes],
            confusions=findings.confusions,
            classes=classes,
            models=findings.models,
            chosen=findings.chosen,
            best=max(model.accuracy for model in findings.models),
            tolerance=findings.parameters.tolerance,
        )
    )
    path.write_text(page, encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"share": _share, "number": _number, "milliseconds": _milliseconds}
    return environment


def _metric_rows(findings: Findings) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each declared metric."""
    formats = {"loss": _number, "latency_ms": _milliseconds, "size_bytes": size}
    return [
        (
            metric.name,
            "undefined" if metric.name in findings.undefined else formats.get(metric.name, _share)(value),
            metric.description.replace("`", ""),
        )
        for metric in evaluate.spec.metrics
        for value in [findings.metrics[metric.name]]
    ]


def _notes(findings: Findings, classes: Sequence[str]) -> Iterable[str]:
    """What a reader must know about undefined figures."""
    found, channel = findings.figures, findings.parameters.channel
    present, predicted = found.confusion.sum(axis=1) > 0, found.confusion.sum(axis=0) > 0
    if not present.all():
        names = _listed(name for name, there in zip(classes, present, strict=True) if not there)
        yield f"No records in the {channel} channel, left out of the means over classes: {names}."
    if (present & ~predicted).any():
        names = _listed(name for name, missed in zip(classes, present & ~predicted, strict=True) if missed)
        yield f"Never predicted, so without a precision: {names}."
    if "roc_auc" in findings.undefined:
        yield "All records are of one class: the ROC curve is undefined, roc_auc is reported as 0."
    if "overfit_gap" in findings.undefined:
        yield "There are no train records: the overfit gap is unknown, overfit_gap is reported as 1."
    if found.top_k < findings.parameters.top_k:
        yield f"top_k is {findings.parameters.top_k}, but there are only {len(classes)} classes."


def _listed(names: Iterable[str]) -> str:
    everything = list(names)
    rest = f" and {len(everything) - _NAMES} more" if len(everything) > _NAMES else ""
    return ", ".join(everything[:_NAMES]) + rest


def _class_rows(found: Figures, classes: Sequence[str]) -> Iterable[_ClassRow]:
    off = found.confusion - np.diag(np.diagonal(found.confusion))
    scores = zip(*found.by_class, found.auc, strict=True)
    for index, (name, values) in enumerate(zip(classes, scores, strict=True)):
        other = int(off[index].argmax())
        count = int(off[index, other])
        yield _ClassRow(
            name=name,
            images=int(found.confusion[index].sum()),
            figures=tuple("" if np.isnan(value) else _share(value) for value in values),
            confused=f"{classes[other]} ({count:,})" if count else "",
        )


def _share(value: float) -> str:
    return f"{value:.4f}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


def _shown(mistake: Mistake, findings: Findings) -> str:
    """A picture as the source of an `img` element, or how a text begins; of a row its URI tells all."""
    if findings.card.records.kind == "image":
        return _data_uri(mistake.thumbnail())
    if findings.card.records.kind == "tabular":
        return ""
    text = decode(mistake.example.tolist(), findings.vocabulary)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS].rstrip()} …"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
