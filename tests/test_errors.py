"""How mistakes in values are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.errors import did_you_mean, explain_validation
from millrace.pipelines.image_classification import ImageClassification


def explained(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        ImageClassification.model_validate(values)
    return explain_validation(caught.value, model=ImageClassification)


class TestDidYouMean:
    def test_of_few_names_all_are_told(self) -> None:
        assert did_you_mean("batch", ["bathc", "epochs"]) == "did you mean 'bathc'? allowed: bathc, epochs"
        assert did_you_mean("x", ["b", "a"]) == "allowed: a, b"

    def test_of_very_many_the_nearest_few(self) -> None:
        names = [f"column{number}" for number in range(2000)]
        told = did_you_mean("colum1234", names)
        assert told.startswith("did you mean 'column1234'? 2000 are allowed, the nearest are column1234, ")
        assert len(told) < 200
        assert (
            did_you_mean("?", names) == "2000 are allowed, column0, column1, column10, column100, column1000 for some"
        )


class TestExplainValidation:
    def test_an_unknown_kind(self) -> None:
        told = explained({"train": {"optimizer": {"kind": "adm"}}})
        assert told.startswith("train.optimizer.kind: unknown kind 'adm': did you mean 'adam'? allowed: adagrad, adam,")

    def test_no_kind(self) -> None:
        told = explained({"preprocess": {"data": {"height": 8}}})
        assert told == "preprocess.data.kind: a value is required: one of image, tabular, text"

    def test_a_key_of_another_kind(self) -> None:
        told = explained({"train": {"model": {"kind": "cnn", "name": "MobileNetV2"}}})
        assert told.startswith("train.model.name: unknown key for kind=cnn: allowed: batch_norm")

    def test_paths_are_those_that_people_write(self) -> None:
        assert explained({"manifest": {"labels": {"kind": "csv"}}}) == "manifest.labels.path: a value is required"
        assert "train.class_weights: Input should be 'none'" in explained({"train": {"class_weights": "balance"}})

    def test_a_word_where_a_list_is_needed(self) -> None:
        assert explained({"manifest": {"include": "*.png"}}) == (
            "manifest.include: a list is needed: manifest.include=[*.png]"
        )

    def test_rules_over_several_fields(self) -> None:
        told = explained({"train": {"xla": True}})
        assert told == "train: xla=true needs deterministic=false: TensorFlow does not compile deterministic steps"
