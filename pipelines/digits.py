"""Handwritten digits: the whole way on small real data that a dependency carries."""

from __future__ import annotations

from millrace.components.digits.spec import DigitsParameters
from millrace.components.digits.spec import digits as write_digits
from millrace.components.predict.spec import PredictParameters
from millrace.components.train.spec import train
from millrace.pipelines.classification import classify
from millrace.pipelines.image_classification import ImageClassification
from millrace.specs import pipeline

__all__ = ["Digits", "digits"]


class Digits(ImageClassification):
    """Configuration of an image classification, and of the pictures that are written first."""

    pictures: DigitsParameters = DigitsParameters()
    predict: PredictParameters | None = None
    """Answer about all pictures at once, too: `predict={}` for one; null leaves the task out."""


@pipeline
def digits(config: Digits) -> None:
    """Classify scikit-learn's 1,797 handwritten digits, from PNG files to an answering endpoint."""
    pictures = write_digits.with_options(name="pictures")(config.pictures)
    classify(config, train, config.train, dataset=pictures.dataset, asked=config.predict)
