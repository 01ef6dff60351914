"""What classifications of every kind of data have in common: from listing to an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, model_validator

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.manifest.spec import ImageFormat, ManifestParameters, TableFormat, manifest
from millrace.components.predict.spec import PredictParameters, predict
from millrace.components.preprocess.spec import ImageData, PreprocessParameters, TextData, preprocess
from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.components.shard.spec import ShardParameters, shard
from millrace.components.train.spec import TrainOutputs
from millrace.components.tune.spec import TuneParameters, tune
from millrace.specs import Component, Dataset, Distribution, Frozen, Parameters, PipelineConfig, when

__all__ = ["PICTURES", "TABLES", "Classification", "Gate", "check_analyze", "check_data", "classify"]

PICTURES: tuple[ImageFormat, ...] = get_args(ImageFormat)
TABLES: tuple[TableFormat, ...] = get_args(TableFormat)
_PIPELINES = {"image": "image_classification", "text": "text_classification", "tabular": "tabular"}

ParametersT = TypeVar("ParametersT", bound=Parameters)


class Gate(Frozen):
    """What a model must reach before it is quantized and deployed."""

    accuracy: float = Field(default=0.0, ge=0, le=1)
    """Smallest accuracy on the test channel; 0, the default, is no gate: every model is deployed."""


class Classification(PipelineConfig):
    """Configuration of the tasks that every classification has, and what must be reached between them."""

    manifest: ManifestParameters = ManifestParameters()
    shard: ShardParameters = ShardParameters()
    preprocess: PreprocessParameters = PreprocessParameters()
    workers: int = Field(default=2, ge=1)
    """Workers that preprocess side by side, each with its share of the shards."""
    tune: TuneParameters = TuneParameters()
    """Nothing is searched, and there is no such task, while `space` is empty."""
    hosts: int = Field(default=1, ge=1, le=1000)
    """Machines that train one model together, on Kubeflow and SageMaker."""
    processes: int = Field(default=1, ge=1, le=128)
    """Ranks on each of them, which Horovod joins; one for each GPU is usual. Without Horovod one trains."""
    evaluate: EvaluateParameters = EvaluateParameters()
    gate: Gate = Gate()
    quantize: QuantizeParameters | None = None
    """Deploy a smaller model: `quantize={scheme: dynamic}`; null deploys the one that was trained."""
    deploy: DeployParameters = DeployParameters()

    def remarks(self) -> tuple[str, ...]:
        """That no gate is set, where none is."""
        if self.gate.accuracy > 0:
            return ()
        return (
            "no gate is set (gate.accuracy=0): a model is deployed however often it errs; gate.accuracy=0.9 is one",
        )

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        """What a pipeline sets for a task holds where only other parameters of the task are given."""
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(filled.get(name), Mapping) and isinstance(field.default, Parameters):
                own = {one: getattr(field.default, one) for one in field.default.model_fields_set}
                filled[name] = {**own, **filled[name]}
        return filled


def check_data(config: Classification, kind: Literal["image", "text", "tabular"], formats: tuple[str, ...]) -> None:
    """Refuse what manifest would list and preprocess could not read.

    Args:
        config: Of the pipeline.
        kind: What the pipeline's objects are.
        formats: Of `manifest` that such objects can have.

    Raises:
        ValueError: Naming the keys.
    """
    given = config.preprocess.data.kind
    if given != kind:
        raise ValueError(
            f"preprocess.data.kind={given}: this pipeline is for preprocess.data.kind={kind}; use "
            f"pipeline={_PIPELINES[given]}, or leave it out"
        )
    if wrong := [name for name in config.manifest.formats if name not in formats]:
        raise ValueError(
            f"manifest.formats has {', '.join(wrong)}, which preprocess.data.kind={kind} can't read, allowed: "
            f"{', '.join(formats)}"
        )


def check_analyze(config: Classification, given: AnalyzeParameters) -> None:
    """Refuse other options for what is learnt than for what is made of it, and an earlier analysis that none needs.

    Raises:
        ValueError: Naming the keys.
    """
    data = config.preprocess.data
    if given.data is not None and given.data != data:
        raise ValueError("analyze.data is not preprocess.data, which analyze takes: set preprocess.data alone")
    if given.previous is not None and isinstance(data, TextData) and data.vocabulary is not None:
        raise ValueError(
            "analyze.previous is for a vocabulary that analyze built, and preprocess.data.vocabulary gives one: leave "
            "one of them out"
        )


def classify(
    config: Classification,
    trainer: Component[ParametersT, ..., TrainOutputs],
    parameters: ParametersT,
    *,
    analyzes: AnalyzeParameters | None = None,
    dataset: Dataset | None = None,
    asked: PredictParameters | None = None,
) -> None:
    """The tasks of a classification.

    Args:
        config: What each task is configured with.
        trainer: The component that trains.
        parameters: Of it.
        analyzes: When something is learnt from the training objects before all are prepared.
        dataset: The objects, when an earlier task makes them; else `manifest.source` names them.
        asked: Also answer about all objects of `dataset` at once.
    """
    listing = manifest(config.manifest, dataset=dataset)
    plan = shard(config.shard, manifest=listing.manifest)
    data, learnt = config.preprocess.data, None
    if analyzes is not None and not isinstance(data, ImageData):
        learnt = analyze(analyzes.model_copy(update={"data": data}), shards=plan.shards, dataset=dataset).analysis
    preprocessing = preprocess.with_options(shares=config.workers)
    records = preprocessing(config.preprocess, shards=plan.shards, dataset=dataset, analysis=learnt).records
    study = tune(config.tune.of(trainer, parameters), records=records).study if config.tune.space else None
    training = trainer.with_options(
        distribution=Distribution(mode="ranks", hosts=config.hosts, processes=config.processes)
    )
    trained = training(parameters, records=records, study=study)
    report = evaluate(config.evaluate, model=trained.model, records=records)
    with when(report.accuracy >= config.gate.accuracy):
        model = trained.model
        if config.quantize is not None:
            model = quantize(config.quantize, model=model, records=records).model
        deploy(config.deploy, model=model, records=records)
        if asked is not None and dataset is not None:
            predict.with_options(shares=config.workers)(asked, dataset=dataset, model=trained.model)
