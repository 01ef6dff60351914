"""A model in parts on several ranks learns what one process learns."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import needed

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

from millrace.errors import ConfigError, UnsupportedError, UserError
from millrace.specs import Distribution
from millrace.training.options.debug import Debug
from millrace.training.options.parallel import Parallel
from millrace.training.options.reuse import FineTuning
from millrace.training.parameters import TrainParameters
from millrace.training.refusals import check_hosts, refuse
from millrace.training.tensor_parallel_plan import plan
from tests.training.horovod_ranks import run_ranks
from tests.training.horovod_training import run
from tests.training.tensor_parallel_training import CASES, HEAD, RESUMED, ROUGH, with_tensor, write_many_classes

slow = pytest.mark.slow


def weights(folder: Path) -> list[Any]:
    """Of the saved model, which needs none of our layers to be loaded."""
    model: Any = keras.models.load_model(folder / "model" / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in model._flatten_layers())
    return [weight.numpy() for weight in model.weights]


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "checkpoints" / "history.jsonl").read_text().splitlines()]


def assert_alike(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    for mine, yours in zip(weights(one), weights(other), strict=True):
        assert np.allclose(mine, yours, rtol=0, atol=tolerance), np.abs(mine - yours).max()
    for first, second in zip(history(one), history(other), strict=True):
        assert first == pytest.approx(second, abs=10 * tolerance)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0] == pytest.approx(results[1], abs=10 * tolerance)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which four ranks have run all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    write_many_classes(folder / "records")
    run_ranks("tests.training.tensor_parallel_training", folder, 4, 600)
    return folder


@slow
class TestAsOneProcess:
    @pytest.mark.parametrize("case", CASES)
    def test_after_training(self, ranks: Path, tmp_path: Path, case: str) -> None:
        run(tmp_path, ranks / "records", CASES[case][0])
        assert_alike(ranks / "rank-0" / case, tmp_path)

    def test_begun_by_pairs_and_finished_by_four_or_one(self, ranks: Path, tmp_path: Path) -> None:
        run(tmp_path / "whole", ranks / "records", RESUMED)
        assert_alike(ranks / "rank-0" / "resumed", tmp_path / "whole")
        assert history(ranks / "rank-0" / "resumed")[:2] == history(ranks / "rank-0" / "begun")
        shutil.copytree(ranks / "rank-0" / "begun" / "checkpoints", tmp_path / "alone" / "checkpoints")
        run(tmp_path / "alone", ranks / "records", RESUMED)
        assert_alike(tmp_path / "alone", tmp_path / "whole")

    def test_two_ranks_that_meet_by_themselves_roughly_in_mixed_precision(self, ranks: Path, tmp_path: Path) -> None:
        (tmp_path / "records").symlink_to(ranks / "records")
        run_ranks("tests.training.tensor_parallel_training", tmp_path, 2)
        run(tmp_path / "alone", ranks / "records", ROUGH)
        assert_alike(tmp_path / "rank-0", tmp_path / "alone", 0.02)

    def test_only_the_first_writes(self, ranks: Path) -> None:
        for case in (*CASES, "resumed"):
            for file in ("model/model.keras", "checkpoints/checkpoint.npz"):
                assert [(ranks / f"rank-{index}" / case / file).exists() for index in range(4)] == [
                    True, False, False, False,
                ], (case, file)  # fmt: skip


def dense(*units: int, between: Any = None, head: bool = True) -> Any:
    """A model of Dense layers a, b, ..., of 20 inputs."""
    keras.utils.clear_session()
    x = inputs = keras.Input((20,))
    for name, size in zip("abcdef", units, strict=False):
        x = keras.layers.Dense(size, name=name)(x)
        if between is not None and name != "abcdef"[len(units) - 1]:
            x = between()(x)
    return keras.Model(inputs, keras.layers.Activation("softmax")(x) if head else x)


def planned(model: Any, **options: Any) -> dict[str, str]:
    """How each layer is split, by name."""
    made = plan(model, Parallel(tensor=4, **options))
    return {layer.name: made.split[id(layer)] for layer in model.layers if id(layer) in made.split}


class TestPlan:
    def test_the_head_comes_first(self) -> None:
        assert planned(dense(50, 100), min_units=40) == {"a": "gathered columns", "b": "classes"}
        assert planned(dense(50, 100), min_units=60) == {"b": "classes"}

    def test_two_that_follow_each_other_are_columns_and_rows(self) -> None:
        expected = {"a": "columns", "b": "rows"}
        assert planned(dense(50, 5, 5), min_units=40) == expected
        assert planned(dense(50, 5, 5, between=lambda: keras.layers.Dropout(0.5)), min_units=40) == expected
        assert planned(dense(50, 5, 5, between=keras.layers.ReLU), min_units=40) == expected
        whole = {"a": "gathered columns"}
        assert planned(dense(50, 5, 5, between=keras.layers.Softmax), min_units=40) == {**whole, "b": "taken rows"}
        assert planned(dense(50, 5, 5, between=keras.layers.BatchNormalization), layers=("a",)) == whole

    def test_many_inputs_alone_are_split_by_rows(self) -> None:
        assert planned(dense(5, 5), min_units=20) == {"a": "columns", "b": "rows"}
        assert planned(dense(3, 5), min_units=20) == {"a": "taken rows"}

    def test_a_head_that_does_not_end_in_probabilities_is_gathered(self) -> None:
        assert planned(dense(5, 100, head=False), min_units=60) == {"b": "gathered columns"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"min_units": 60}, "no Dense or Embedding layer of 60 units or rows.*parallel.min_units"),
            ({"layers": ("x",)}, "unknown layer 'x'"),
            ({"layers": ("activation",)}, "'activation' can't be split: it is a Activation, needed: Dense"),
            ({"layers": ("c",)}, "'c' can't be split: it has 3 units or rows, fewer than parallel.tensor=4 ranks"),
        ],
    )
    def test_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            planned(dense(50, 3, 3), **options)

    def test_a_regularizer_would_see_a_part_only(self) -> None:
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(50, kernel_regularizer="l2", name="a")])
        with pytest.raises(ConfigError, match="'a' can't be split: it has a regularizer"):
            planned(model, layers=("a",))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ConfigError, "parallel.tensor=2 must divide the number of ranks, hosts times processes: 3"),
        ({"strategy": "multiworker"}, UnsupportedError, "needs strategy=horovod"),
        ({"sharding": "file"}, UnsupportedError, "needs sharding=data"),
        ({"amp": True}, UnsupportedError, "needs amp_dtype=bfloat16"),
        ({"xla": True, "deterministic": False}, UnsupportedError, "needs xla=false"),
        ({"debug": Debug()}, UnsupportedError, "needs debug=null"),
        ({"fine_tuning": FineTuning()}, UnsupportedError, "neither fine_tuning nor a teacher"),
    ],
)
def test_refused_before_machines_are_paid_for(changes: dict[str, Any], error: type[UserError], message: str) -> None:
    parameters = TrainParameters.model_validate({**with_tensor(HEAD, 2).model_dump(), **changes})
    with pytest.raises(error, match=message):
        check_hosts(parameters, 1, 2 if changes else 3)


def test_a_base_as_an_input_is_refused_too() -> None:
    with pytest.raises(UnsupportedError, match=r"parallel\.tensor=2 needs a model that starts anew: leave out base"):
        refuse(with_tensor(HEAD, 2).model_dump(), ("records", "base"), Distribution(hosts=1, processes=2))
