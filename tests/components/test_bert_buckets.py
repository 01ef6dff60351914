"""Batches of texts that are padded to the length they need: the same answers and gradients."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from millrace.components.bert.refusals import refuse
from millrace.components.bert.spec import BertParameters, bert
from millrace.errors import ConfigError, UserError
from millrace.runtime.task import GivenArtifact, TaskRequest, read_result
from millrace.specs import Distribution
from millrace.testing import run_component
from millrace.training.data import evaluation_batches, inspect, training_batches
from millrace.training.models import build_model
from millrace.training.options.models import Bert
from tests.components.text_data import LENGTH, text_schema, write_text_records
from tests.components.train_data import write_picture_records
from tests.conftest import needed
from tests.runtime.launcher.groups import group_of

TINY = Bert(layers=2, heads=2, hidden=16, intermediate=32, positions=16, dropout=0)
PLAIN = BertParameters(model=TINY, epochs=2, learning_rate=0.01, train_batch_size=5, peer_seconds=60)
BUCKETS = PLAIN.model_copy(update={"buckets": (6, 8)})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_records(tmp_path_factory.mktemp("texts") / "records")


def batches(records: Path, parameters: BertParameters, start: int, count: int, **more: Any) -> list[Any]:
    told = parameters.training().model_copy(update=more)
    return list(islice(training_batches(inspect(records, told), told, start).as_numpy_iterator(), count))


def test_a_batch_is_padded_to_the_first_bucket_that_holds_it(records: Path) -> None:
    plain, short = (batches(records, one, 0, 26) for one in (PLAIN, BUCKETS))
    lengths = set()
    for (tokens, labels), (cut, same) in zip(plain, short, strict=True):
        longest = int((tokens != 0).sum(axis=1).max())
        assert cut.shape[1] == next(size for size in (6, 8, LENGTH) if size >= longest)
        np.testing.assert_array_equal(cut, tokens[:, : cut.shape[1]])
        np.testing.assert_array_equal(labels, same)
        lengths.add(cut.shape[1])
    assert len(lengths) > 1
    told = BUCKETS.training()
    assert {one.shape[1] for one, _ in evaluation_batches(inspect(records, told), "test", told, None)} <= {6, 8, LENGTH}


@pytest.mark.parametrize("more", [{}, {"cache_mib": 0}], ids=["in memory", "streamed"])
def test_a_run_that_goes_on_sees_the_same_batches(records: Path, more: dict[str, Any]) -> None:
    whole, rest = batches(records, BUCKETS, 0, 20, **more), batches(records, BUCKETS, 7, 13, **more)
    for one, other in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize("pooling", ["cls", "average"])
def test_gradients_are_those_of_padded_texts(records: Path, pooling: str) -> None:
    choice = {"model": TINY.model_copy(update={"pooling": pooling})}
    models = [
        build_model(one.model_copy(update=choice).training(), text_schema(), policy="float32")
        for one in (PLAIN, BUCKETS)
    ]
    cut = False
    for whole, short in zip(*(batches(records, one, 0, 8) for one in (PLAIN, BUCKETS)), strict=True):
        cut |= whole[0].shape != short[0].shape
        found = []
        for model, (tokens, targets) in zip(models, (whole, short), strict=True):
            with tf.GradientTape() as tape:
                loss: Any = keras.losses.categorical_crossentropy(targets, model(tokens, training=True))
            found.append([tf.convert_to_tensor(one) for one in tape.gradient(loss, model.trainable_variables)])
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert cut


@pytest.mark.slow
def test_training_ends_up_with_the_same_model_on_one_rank_and_on_two(tmp_path: Path, records: Path) -> None:
    plain, short = (
        run_component(bert, one, tmp_path / name, records=records)
        for name, one in {"plain": PLAIN, "buckets": BUCKETS}.items()
    )
    assert short.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-3)
    assert (short.outputs["model"] / "model.keras").is_file()
    saved: Any = keras.models.load_model(short.outputs["model"] / "model.keras")
    assert saved.input_shape == (None, LENGTH)  # as an endpoint and LiteRT need it
    if find_spec("horovod") is None:
        needed("needs Horovod: make horovod")
    request = TaskRequest(
        name="bert",
        component=bert.spec.entry,
        parameters=BUCKETS.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
        cores=2,
    )
    with group_of(tmp_path / "ranks", request) as group:
        assert group.wait(180) == [0], group.log()
    result = read_result(group.directory(0))
    assert result is not None
    assert result.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("given", "inputs", "told"),
    [
        (
            {"fine_tuning": {"model": "model.keras"}},
            ["records"],
            "buckets is set, but a trained model takes texts of one",
        ),
        ({"teacher": {}}, ["records", "teacher"], "buckets is set, but a trained model takes texts of one length"),
        ({"parallel": {"tensor": 2}}, ["records"], r"parallel\.tensor=2 needs buckets=null"),
    ],
)
def test_what_takes_one_length_is_refused(given: dict[str, Any], inputs: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        refuse({**given, "buckets": [6, 8]}, inputs, Distribution(processes=2))


def test_buckets_that_can_hold_nothing_are_refused(tmp_path: Path, records: Path) -> None:
    with pytest.raises(ValidationError, match=re.escape("buckets must rise: [8, 6]")):
        BertParameters(buckets=(8, 6))
    with pytest.raises(ConfigError, match=r"buckets has 13, but texts have at most 12 tokens \(preprocess\.data"):
        inspect(records, BUCKETS.model_copy(update={"buckets": (6, 13)}).training())
    pictures = write_picture_records(tmp_path / "pictures")
    with pytest.raises(ConfigError, match="buckets is for texts, the records hold images"):
        inspect(pictures, BUCKETS.training())
