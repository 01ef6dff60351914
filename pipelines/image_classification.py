"""Pictures in class folders to a deployed classifier."""

from __future__ import annotations

from pydantic import model_validator

from millrace.components.quantize.spec import QuantizeParameters
from millrace.components.train.spec import TrainParameters, train
from millrace.pipelines.classification import PICTURES, Classification, check_data, classify
from millrace.specs import pipeline

__all__ = ["ImageClassification", "image_classification"]


class ImageClassification(Classification):
    """Configuration of the tasks, and what must be reached between them."""

    train: TrainParameters = TrainParameters()
    quantize: QuantizeParameters | None = QuantizeParameters()
    """How the deployed model is made smaller; null deploys the one that was trained."""

    @model_validator(mode="after")
    def _pictures(self) -> ImageClassification:
        check_data(self, "image", PICTURES)
        return self


@pipeline
def image_classification(config: ImageClassification) -> None:
    """Classify the pictures of a folder or an S3 prefix, one folder a class."""
    classify(config, train, config.train)
