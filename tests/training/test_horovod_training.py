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
from tests.training.horovod_training import CALM, EMBEDDING, RANDOM, SAME, run, steps

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


class TestAsOneProcess:
    @pytest.mark.parametrize(("case", "tolerance"), [("adamw", 2e-5), ("fp16", 2e-3), ("float16", 2e-2)])
    def test_weights_and_figures(self, two_ranks: Path, tmp_path: Path, case: str, tolerance: float) -> None:
        run(tmp_path, two_ranks / "records", SAME[case])
        assert_alike(two_ranks / "rank-0" / case, tmp_path, tolerance)
        of_ranks, alone = (
            json.loads((folder / "result.json").read_text()) for folder in (two_ranks / "rank-0" / case, tmp_path)
        )
        assert of_ranks == pytest.approx(alone, abs=tolerance)

    def test_accumulated_and_compiled(self, two_ranks: Path, tmp_path: Path) -> None:
        run(tmp_path, two_ranks / "records", SAME["accumulating"])
        for case in ("accumulating", "xla"):
            assert_alike(two_ranks / "rank-0" / case, tmp_path)

    def test_sparse_gradients_by_all_strategies(self, two_ranks: Path, tmp_path: Path) -> None:
        compiled = EMBEDDING.model_copy(update={"xla": True, "deterministic": False})
        with started(tmp_path, two_ranks / "records", compiled.model_copy(update={"strategy": "multiworker"})) as group:
            run(tmp_path / "alone", two_ranks / "records", EMBEDDING)
            assert_alike(two_ranks / "rank-0" / "embedding", tmp_path / "alone")
            finished = group.finish()
            (finished / "model").symlink_to(finished / "outputs" / "model")
            assert_alike(finished, tmp_path / "alone")

    def test_four_ranks(self, two_ranks: Path, tmp_path: Path) -> None:
        (tmp_path / "records").symlink_to(two_ranks / "records")
        run_ranks("tests.training.horovod_training", tmp_path, 4)
        assert_alike(tmp_path / "rank-0" / "adamw", two_ranks / "rank-0" / "adamw")

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
        for case in (*SAME, "random", "resumed"):
            models = [two_ranks / f"rank-{index}" / case / "model" / "model.keras" for index in range(2)]
            assert models[0].read_bytes() == models[1].read_bytes(), case

    def test_again_with_a_stop_between(self, two_ranks: Path) -> None:
        for file in ("model/model.keras", "checkpoints/history.jsonl"):
            files = [two_ranks / "rank-0" / name / file for name in ("random", "resumed")]
            assert files[0].read_bytes() == files[1].read_bytes(), file

    def test_only_the_first_writes_checkpoints(self, two_ranks: Path) -> None:
        assert (two_ranks / "rank-0" / "adamw" / "checkpoints" / "checkpoint.npz").exists()
        assert list((two_ranks / "rank-1" / "adamw" / "checkpoints").iterdir()) == []


class TestAccumulating:
    def test_steps_are_one_of_as_many_records(self, two_ranks: Path, tmp_path: Path) -> None:
        plain = CALM.model_copy(update={"augmentation": Augmentation(), "epochs": 1})
        many = plain.model_copy(update={"batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_epoch": 8})
        once = plain.model_copy(update={"batch_size": 32, "steps_per_epoch": 2})
        run(tmp_path / "many", two_ranks / "records", many)
        run(tmp_path / "once", two_ranks / "records", once)
        assert_alike(tmp_path / "many", tmp_path / "once")

    def test_stopped_alone(self, two_ranks: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit):
            run(tmp_path / "stopped", two_ranks / "records", RANDOM, stop_at=2)
        run(tmp_path / "stopped", two_ranks / "records", RANDOM)
        run(tmp_path / "whole", two_ranks / "records", RANDOM)
        files = [tmp_path / name / "model" / "model.keras" for name in ("stopped", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
