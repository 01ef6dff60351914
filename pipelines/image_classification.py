"""Pictures in class folders to a deployed classifier."""

from __future__ import annotations

from pydantic import Field

from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.predict.spec import PredictParameters, predict
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.components.shard.spec import ShardParameters, shard
from millrace.components.train.spec import TrainParameters, train
from millrace.components.tune.spec import TuneParameters, tune
from millrace.specs import Dataset, Distribution, Frozen, PipelineConfig, pipeline, when

__all__ = ["Gate", "ImageClassification", "classify", "image_classification"]


class Gate(Frozen):
    """What a model must reach before it is quantized and deployed."""

    accuracy: float = Field(default=0.0, ge=0, le=1)
    """Smallest accuracy on the test channel."""


class ImageClassification(PipelineConfig):
    """Configuration of the tasks, and what must be reached between them."""

    manifest: ManifestParameters = ManifestParameters()
    shard: ShardParameters = ShardParameters()
    preprocess: PreprocessParameters = PreprocessParameters()
    workers: int = Field(default=2, ge=1)
    """Workers that preprocess side by side, each with its share of the shards."""
    tune: TuneParameters = TuneParameters()
    """Nothing is searched, and there is no such task, while `space` is empty."""
    train: TrainParameters = TrainParameters()
    hosts: int = Field(default=1, ge=1, le=1000)
    """Machines that train one model together, on Kubeflow and SageMaker."""
    processes: int = Field(default=1, ge=1, le=128)
    """Ranks on each of them, which Horovod joins; one for each GPU is usual. Without Horovod one trains."""
    evaluate: EvaluateParameters = EvaluateParameters()
    gate: Gate = Gate()
    quantize: QuantizeParameters = QuantizeParameters()
    deploy: DeployParameters = DeployParameters()


@pipeline
def image_classification(config: ImageClassification) -> None:
    """Classify the pictures of a folder or an S3 prefix, one folder a class."""
    classify(config)


def classify(
    config: ImageClassification, pictures: Dataset | None = None, asked: PredictParameters | None = None
) -> None:
    """The tasks of an image classification, from listing to an endpoint.

    Args:
        config: What each task is configured with.
        pictures: The pictures, when an earlier task makes them; else `manifest.source` names them.
        asked: Also answer about all of these pictures at once.
    """
    listing = manifest(config.manifest, dataset=pictures)
    plan = shard(config.shard, manifest=listing.manifest)
    preprocessing = preprocess.with_options(shares=config.workers)
    records = preprocessing(config.preprocess, shards=plan.shards, dataset=pictures)
    study = tune(config.tune.of(train, config.train), records=records.records).study if config.tune.space else None
    training = train.with_options(
        distribution=Distribution(mode="ranks", hosts=config.hosts, processes=config.processes)
    )
    trained = training(config.train, records=records.records, study=study)
    report = evaluate(config.evaluate, model=trained.model, records=records.records)
    with when(report.accuracy >= config.gate.accuracy):
        small = quantize(config.quantize, model=trained.model, records=records.records)
        deploy(config.deploy, model=small.model, records=records.records)
        if asked is not None and pictures is not None:
            predict.with_options(shares=config.workers)(asked, dataset=pictures, model=trained.model)
