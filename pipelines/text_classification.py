"""Tables of texts to a deployed classifier."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from millrace.components.bert.spec import BertParameters, bert
from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.components.tokenize.spec import TokenizeParameters, tokenize
from millrace.components.tune.spec import TuneParameters, tune
from millrace.pipelines.image_classification import Gate
from millrace.specs import Distribution, PipelineConfig, pipeline, when

__all__ = ["TextClassification", "text_classification"]


class TextClassification(PipelineConfig):
    """Configuration of the tasks, and what must be reached between them."""

    tokenize: TokenizeParameters = TokenizeParameters()
    tune: TuneParameters = TuneParameters()
    """Nothing is searched, and there is no such task, while `space` is empty."""
    bert: BertParameters = BertParameters()
    hosts: int = Field(default=1, ge=1, le=1000)
    """Machines that train one model together, on Kubeflow and SageMaker."""
    processes: int = Field(default=1, ge=1, le=128)
    """Ranks on each of them, which Horovod joins; one for each GPU is usual. Without Horovod one trains."""
    evaluate: EvaluateParameters = EvaluateParameters()
    gate: Gate = Gate()
    quantize: QuantizeParameters | None = None
    """Deploy a smaller model: `quantize={scheme: dynamic}`; null deploys the one that was trained."""
    deploy: DeployParameters = DeployParameters()

    @model_validator(mode="after")
    def _together(self) -> TextClassification:
        given, cut = self.bert.max_seq_length, self.tokenize.max_seq_length
        if given not in (None, cut):
            raise ValueError(
                f"bert.max_seq_length={given}, but tokenize.max_seq_length={cut} cuts the texts: make them equal, or "
                "leave bert.max_seq_length out"
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
            raise ValueError("quantize.scheme=int8 measures the ranges of pixels: dynamic or float16 is for texts")
        return given


@pipeline
def text_classification(config: TextClassification) -> None:
    """Classify the texts of CSV, Parquet or JSON lines files with BERT."""
    texts = tokenize(config.tokenize)
    study = tune(config.tune.of(bert, config.bert), records=texts.records).study if config.tune.space else None
    training = bert.with_options(
        distribution=Distribution(mode="ranks", hosts=config.hosts, processes=config.processes)
    )
    trained = training(config.bert, records=texts.records, study=study)
    report = evaluate(config.evaluate, model=trained.model, records=texts.records)
    with when(report.accuracy >= config.gate.accuracy):
        model = trained.model
        if config.quantize is not None:
            model = quantize(config.quantize, model=model, records=texts.records).model
        deploy(config.deploy, model=model, records=texts.records)
