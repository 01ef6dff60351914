"""Rows of tables to a deployed classifier."""

from __future__ import annotations

from pydantic import model_validator

from millrace.components.analyze.spec import AnalyzeParameters
from millrace.components.manifest.spec import ColumnLabels, ManifestParameters
from millrace.components.preprocess.spec import PreprocessParameters, TabularData
from millrace.components.train.spec import TrainParameters, train
from millrace.pipelines.classification import TABLES, Classification, check_analyze, check_data, classify
from millrace.specs import pipeline
from millrace.training.options.models import Mlp

__all__ = ["Tabular", "tabular"]


class Tabular(Classification):
    """Configuration of the tasks, and what must be reached between them."""

    manifest: ManifestParameters = ManifestParameters(formats=TABLES, labels=ColumnLabels(), conflicts="keep")
    analyze: AnalyzeParameters = AnalyzeParameters()
    """Its `data` is that of `preprocess`."""
    preprocess: PreprocessParameters = PreprocessParameters(data=TabularData())
    train: TrainParameters = TrainParameters(model=Mlp())

    @model_validator(mode="after")
    def _rows(self) -> Tabular:
        check_data(self, "tabular", TABLES)
        check_analyze(self, self.analyze)
        if self.train.model.kind not in ("mlp", "custom"):
            raise ValueError(
                f"train.model.kind={self.train.model.kind} is not for rows of tables: use mlp or custom (model=mlp)"
            )
        return self


@pipeline
def tabular(config: Tabular) -> None:
    """Classify rows of CSV, Parquet or JSON lines files, by the other columns of the row."""
    classify(config, train, config.train, analyzes=config.analyze)
