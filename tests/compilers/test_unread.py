"""What would fail on machines that are paid for, or be followed by nobody, is refused while compiling."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.compilers.kubeflow import compile_pipeline as for_kubeflow
from millrace.compilers.sagemaker import compile_pipeline as for_sagemaker
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.pipelines.image_classification import ImageClassification, image_classification
from millrace.specs.runtime_parameters import open_fields
from millrace.targets.images import Images
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.sagemaker import SageMaker

PREFIX = Images(prefix="123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/")
NO_SOURCE = r"^manifest needs its parameter source or its input dataset: set manifest\.source to s3://bucket/prefix$"


def for_aws(**settings: Any) -> SageMaker:
    return SageMaker.model_validate({"images": PREFIX, **settings})


def test_pictures_that_nobody_names() -> None:
    spec = image_classification.compose(ImageClassification())
    with pytest.raises(ConfigError, match=NO_SOURCE):
        for_kubeflow(spec, Kubeflow(images=PREFIX))
    with pytest.raises(ConfigError, match=NO_SOURCE):
        for_sagemaker(spec, for_aws())


def test_pictures_that_are_named_made_or_given_later() -> None:
    named = ImageClassification.model_validate({"manifest": {"source": "s3://bucket/flowers"}})
    for spec in (
        image_classification.compose(named),
        digits.compose(Digits()),
        open_fields(image_classification, named, ("manifest.source",)),
    ):
        assert for_kubeflow(spec, Kubeflow(images=PREFIX))
        assert for_sagemaker(spec, for_aws())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "Random"),
        ("early_stopping", "Off"),
        ("warm_start", {"parents": ["earlier"]}),
        ("seed", 0),
        ("scaling", {"learning_rate": "Linear"}),
    ],
)
def test_settings_of_a_tuning_job_that_is_none(name: str, value: object) -> None:
    target = for_aws(tuning={"kind": "task", name: value})
    with pytest.raises(UnsupportedError, match=rf"^target\.tuning\.{name}: with target\.tuning\.kind=task no"):
        for_sagemaker(digits.compose(Digits()), target)


def test_days_of_results_that_nobody_keeps() -> None:
    spec = digits.compose(Digits())
    with pytest.raises(UnsupportedError, match=r"^target\.cache_days=7: with target\.cache=false nothing is kept"):
        for_sagemaker(spec, for_aws(cache=False, cache_days=7))
    assert "P7D" in for_sagemaker(spec, for_aws(cache=False, cache_days=7, tasks={"train": {"cache": True}}))
    assert for_sagemaker(spec, for_aws(cache=False))
