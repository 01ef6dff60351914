"""Charts as data: components report them, and every UI draws them in its own way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from millrace.specs.frozen import Frozen

__all__ = ["Chart", "ConfusionMatrix", "Curve", "Lines", "Plot", "Scatter", "Table", "charts_adapter"]


class Curve(Frozen):
    """One line or cloud of points."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    thresholds: tuple[float, ...] = ()
    """Of an ROC curve: the lowest score that counts as positive at each point; empty where there is no such score."""

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        if len(self.x) != len(self.y):
            raise ValueError(f"curve {self.name!r} has {len(self.x)} x and {len(self.y)} y values")
        if self.thresholds and len(self.thresholds) != len(self.x):
            raise ValueError(f"curve {self.name!r} has {len(self.x)} points and {len(self.thresholds)} thresholds")
        return self


class _XYChart(Frozen):
    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...] = Field(min_length=1)
    x_log: bool = False
    y_log: bool = False
    marked_x: float | None = None
    """An x value to mark, the best epoch for one."""


class Lines(_XYChart):
    """Curves over a common axis: learning curves, ROC, calibration."""

    kind: Literal["lines"] = "lines"


class Scatter(_XYChart):
    """Clouds of points: trials of a study, size against accuracy."""

    kind: Literal["scatter"] = "scatter"


class ConfusionMatrix(Frozen):
    """Counts of true classes (rows) against predicted classes (columns)."""

    kind: Literal["confusion_matrix"] = "confusion_matrix"
    name: str
    title: str
    labels: tuple[str, ...] = Field(min_length=1)
    counts: tuple[tuple[int, ...], ...]

    @model_validator(mode="after")
    def _square(self) -> ConfusionMatrix:
        size = len(self.labels)
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            raise ValueError(f"a confusion matrix of {size} labels needs {size} rows of {size} counts")
        return self


class Table(Frozen):
    """Rows of text: answers to a few examples."""

    kind: Literal["table"] = "table"
    name: str
    title: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str, ...], ...]

    @model_validator(mode="after")
    def _filled(self) -> Table:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"each row of table {self.name!r} needs {len(self.columns)} cells")
        return self


Plot = Lines | Scatter | ConfusionMatrix
"""What is drawn."""

Chart = Annotated[Lines | Scatter | ConfusionMatrix | Table, Field(discriminator="kind")]

charts_adapter: TypeAdapter[tuple[Chart, ...]] = TypeAdapter(tuple[Chart, ...])
"""Reads and writes `charts.json`."""
