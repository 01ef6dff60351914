"""Texts, in tables or in files, to a deployed classifier."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from millrace.components.analyze.spec import AnalyzeParameters
from millrace.components.bert.spec import BertParameters, bert
from millrace.components.manifest.spec import ColumnLabels, ManifestParameters
from millrace.components.preprocess.spec import PreprocessParameters, TextData
from millrace.components.quantize.spec import QuantizeParameters
from millrace.pipelines.classification import TABLES, Classification, check_analyze, check_data, classify
from millrace.specs import pipeline

__all__ = ["TextClassification", "text_classification"]


class TextClassification(Classification):
    """Configuration of the tasks, and what must be reached between them."""

    manifest: ManifestParameters = ManifestParameters(formats=TABLES, labels=ColumnLabels())
    analyze: AnalyzeParameters = AnalyzeParameters()
    """Its `data` is that of `preprocess`."""
    preprocess: PreprocessParameters = PreprocessParameters(data=TextData())
    bert: BertParameters = BertParameters()

    @model_validator(mode="after")
    def _together(self) -> TextClassification:
        check_data(self, "text", ("text", *TABLES))
        check_analyze(self, self.analyze)
        data = self.preprocess.data
        if isinstance(data, TextData) and self.bert.max_seq_length not in (None, data.max_seq_length):
            raise ValueError(
                f"bert.max_seq_length={self.bert.max_seq_length}, but preprocess.data.max_seq_length="
                f"{data.max_seq_length} cuts the texts: make them equal, or leave bert.max_seq_length out"
            )
        watched = self.tune.objective.intermediate
        if self.tune.space and self.tune.pruner.kind != "none" and not self.bert.run_validation:
            raise ValueError(
                f"bert.run_validation=false gives no {watched} after an epoch, by which bad trials of the search are "
                "ended: use bert.run_validation=true or tune.pruner.kind=none"
            )
        return self

    @field_validator("quantize")
    @classmethod
    def _not_of_pixels(cls, given: QuantizeParameters | None) -> QuantizeParameters | None:
        if given is not None and given.scheme == "int8":
            raise ValueError("quantize.scheme=int8 measures ranges of numbers: dynamic or float16 is for texts")
        return given


@pipeline
def text_classification(config: TextClassification) -> None:
    """Classify texts with BERT: a column of tables, or files in class folders."""
    data = config.preprocess.data
    known = isinstance(data, TextData) and data.vocabulary is not None
    classify(_by_text(config), bert, config.bert, analyzes=None if known else config.analyze)


def _by_text(config: TextClassification) -> TextClassification:
    """Of tables the text alone tells which rows are equal, whatever other columns hold."""
    data = config.preprocess.data
    if config.manifest.columns is not None or not config.manifest.of_tables or not isinstance(data, TextData):
        return config
    listed = config.manifest.model_copy(update={"columns": (data.column,)})
    return config.model_copy(update={"manifest": listed})
