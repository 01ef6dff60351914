"""How mistakes in values are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.errors import explain_validation
from millrace.pipelines.image_classification import ImageClassification


def explained(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        ImageClassification.model_validate(values)
    return explain_validation(caught.value, model=ImageClassification)


class TestExplainValidation:
    def test_an_unknown_kind(self) -> None:
        told = explained({"train": {"optimizer": {"kind": "adm"}}})
        assert told.startswith("train.optimizer.kind: unknown kind 'adm': did you mean 'adam'? allowed: adagrad, adam,")

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
