"""Training over Horovod gives what one process gives, or the same as before."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace.training.options.images import Augmentation
from millrace.training.ranks import Alone
from tests.components.test_train_hosts import started
from tests.conftest import needed

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

from tests.training.horovod_ranks import run_ranks
from tests.training.horovod_training import ACCUMULATING, CALM, CASES, EMBEDDING, run, steps

pytestmark = pytest.mark.slow


def weights(folder: Path) -> list[Any]:
    model: Any = keras.models.load_model(folder / "model" / "model.keras")
    return [weight.numpy() for weight in model.weights]


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "checkpoints" / "history.jsonl").read_text().splitlines()]


def assert_alike(one: Path, other: Path, tolerance: float = 2e-5) -> None:
    for mine, yours in zip(weights(one), weights(other), strict=True):
        assert np.allclose(mine, yours, rtol=0, atol=tolerance)
    for first, second in zip(history(one), history(other), strict=True):
        assert first == pytest.approx(second, abs=tolerance)


@pytest.fixture(scope="module")
def alone(two_ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the accumulating case."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, two_ranks / "records", ACCUMULATING)
    return folder


class TestAsOneProcess:
    @pytest.mark.parametrize("case", ["accumulating", "xla"])
    def test_accumulated_and_compiled(self, two_ranks: Path, alone: Path, case: str) -> None:
        assert_alike(two_ranks / "rank-0" / case, alone)
        of_ranks, of_one = (
            json.loads((folder / "result.json").read_text()) for folder in (two_ranks / "rank-0" / case, alone)
        )
        assert of_ranks == pytest.approx(of_one, abs=2e-5)

    def test_float16_also_on_the_way(self, two_ranks: Path, tmp_path: Path) -> None:
        run(tmp_path, two_ranks / "records", CASES["half"])
        assert_alike(two_ranks / "rank-0" / "half", tmp_path, 2e-2)

    def test_sparse_gradients_by_all_strategies(self, two_ranks: Path, tmp_path: Path) -> None:
        compiled = EMBEDDING.model_copy(update={"xla": True, "deterministic": False})
        with started(tmp_path, two_ranks / "records", compiled.model_copy(update={"strategy": "multiworker"})) as group:
            run(tmp_path / "alone", two_ranks / "records", EMBEDDING)
            assert_alike(two_ranks / "rank-0" / "embedding", tmp_path / "alone")
            finished = group.finish()
            (finished / "model").symlink_to(finished / "outputs" / "model")
            assert_alike(finished, tmp_path / "alone")

    def test_four_ranks(self, two_ranks: Path, tmp_path: Path, alone: Path) -> None:
        (tmp_path / "records").symlink_to(two_ranks / "records")
        run_ranks("tests.training.horovod_training", tmp_path, 4)
        assert_alike(tmp_path / "rank-0" / "accumulating", alone)

    def test_parts_of_any_size_and_a_step_that_all_skip(self, two_ranks: Path) -> None:
        expected = steps(Alone())
        for index in range(2):
            found = json.loads((two_ranks / f"rank-{index}" / "steps.json").read_text())
            for mine, yours in zip(found["none"], expected["none"], strict=True):
                assert np.allclose(mine, yours, atol=2e-5)
            for mine, yours in zip(found["skipped"], expected["skipped"], strict=True):
                assert np.allclose(mine, yours, atol=2e-3)


class TestSameBits:
    def test_on_all_ranks(self, two_ranks: Path) -> None:
        for case in (*CASES, "random", "resumed"):
            models = [two_ranks / f"rank-{index}" / case / "model" / "model.keras" for index in range(2)]
            assert models[0].read_bytes() == models[1].read_bytes(), case

    def test_again_with_a_stop_between(self, two_ranks: Path) -> None:
        for file in ("model/model.keras", "checkpoints/history.jsonl"):
            files = [two_ranks / "rank-0" / name / file for name in ("random", "resumed")]
            assert files[0].read_bytes() == files[1].read_bytes(), file

    def test_only_the_first_writes_checkpoints(self, two_ranks: Path) -> None:
        assert (two_ranks / "rank-0" / "accumulating" / "checkpoints" / "checkpoint.npz").exists()
        assert list((two_ranks / "rank-1" / "accumulating" / "checkpoints").iterdir()) == []


class TestAccumulating:
    def test_steps_are_one_of_as_many_records(self, two_ranks: Path, tmp_path: Path) -> None:
        plain = CALM.model_copy(update={"augmentation": Augmentation(), "epochs": 1})
        many = plain.model_copy(update={"batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_epoch": 8})
        once = plain.model_copy(update={"batch_size": 32, "steps_per_epoch": 2})
        run(tmp_path / "many", two_ranks / "records", many)
        run(tmp_path / "once", two_ranks / "records", once)
        assert_alike(tmp_path / "many", tmp_path / "once")

    def test_stopped_alone(self, two_ranks: Path, tmp_path: Path, alone: Path) -> None:
        with pytest.raises(SystemExit):
            run(tmp_path, two_ranks / "records", ACCUMULATING, stop_at=7)
        run(tmp_path, two_ranks / "records", ACCUMULATING)
        files = [folder / "model" / "model.keras" for folder in (tmp_path, alone)]
        assert files[0].read_bytes() == files[1].read_bytes()
