"""Training over Horovod gives what one process gives, or the same as before."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from millrace.training.ranks import Alone
from tests.components.train_data import write_records
from tests.conftest import needed

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

from tests.training.horovod_ranks import run_ranks
from tests.training.horovod_training import CALM, RANDOM, ROUGH, SAME, run, steps

pytestmark = pytest.mark.slow


def weights(folder: Path) -> list[Any]:
    model: Any = keras.models.load_model(folder / "model" / "model.keras")
    return [weight.numpy() for weight in model.weights]


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "checkpoints" / "history.jsonl").read_text().splitlines()]


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    for mine, yours in zip(weights(one), weights(other), strict=True):
        assert np.allclose(mine, yours, rtol=0, atol=tolerance), np.abs(mine - yours).max()
    for first, second in zip(history(one), history(other), strict=True):
        assert first == pytest.approx(second, abs=tolerance)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have run all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    write_records(folder / "records", validation=(5, 6, 6), test=(5, 5, 5))
    run_ranks("tests.training.horovod_training", folder)
    return folder


@pytest.mark.parametrize("case", SAME)
def test_as_one_process(ranks: Path, tmp_path: Path, case: str) -> None:
    run(tmp_path, ranks / "records", SAME[case])
    assert_alike(ranks / "rank-0" / case, tmp_path, 2e-5)


@pytest.mark.parametrize(("case", "tolerance"), [("fp16", 2e-3), ("float16", 2e-2), ("bfloat16", 5e-2)])
def test_roughly_as_one_process(ranks: Path, tmp_path: Path, case: str, tolerance: float) -> None:
    run(tmp_path, ranks / "records", ROUGH[case])
    assert_alike(ranks / "rank-0" / case, tmp_path, tolerance)
    assert not all(
        np.array_equal(one, other)
        for one, other in zip(weights(ranks / "rank-0" / case), weights(tmp_path), strict=True)
    )


def test_all_ranks_have_the_same_bits(ranks: Path) -> None:
    for case in (*SAME, *ROUGH, "random", "resumed"):
        models = [ranks / f"rank-{index}" / case / "model" / "model.keras" for index in range(2)]
        assert models[0].read_bytes() == models[1].read_bytes(), case


def test_the_same_bits_again_and_after_a_stop(ranks: Path) -> None:
    for case in ("again", "resumed"):
        for file in ("model/model.keras", "checkpoints/history.jsonl"):
            files = [ranks / "rank-0" / name / file for name in ("random", case)]
            assert files[0].read_bytes() == files[1].read_bytes(), (case, file)


def test_only_the_first_writes_checkpoints(ranks: Path) -> None:
    assert (ranks / "rank-0" / "momentum" / "checkpoints" / "checkpoint.npz").exists()
    assert list((ranks / "rank-1" / "momentum" / "checkpoints").iterdir()) == []


def test_parts_of_any_size_and_a_step_that_all_skip(ranks: Path) -> None:
    expected = steps(Alone())
    for index in range(2):
        found = json.loads((ranks / f"rank-{index}" / "steps.json").read_text())
        for mine, yours in zip(found["none"], expected["none"], strict=True):
            assert np.allclose(mine, yours, atol=2e-5)
        for mine, yours in zip(found["skipped"], expected["skipped"], strict=True):
            assert np.allclose(mine, yours, atol=2e-3)


def test_accumulated_steps_are_one_of_as_many_records(ranks: Path, tmp_path: Path) -> None:
    plain = {"augmentation": CALM.augmentation.model_validate({}), "epochs": 1}
    many = CALM.model_copy(update={**plain, "batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_epoch": 8})
    once = CALM.model_copy(update={**plain, "batch_size": 32, "steps_per_epoch": 2})
    run(tmp_path / "many", ranks / "records", many)
    run(tmp_path / "once", ranks / "records", once)
    assert_alike(tmp_path / "many", tmp_path / "once", 2e-5)


def test_stopped_alone_while_accumulating(ranks: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path / "stopped", ranks / "records", RANDOM, stop_at=2)
    run(tmp_path / "stopped", ranks / "records", RANDOM)
    run(tmp_path / "whole", ranks / "records", RANDOM)
    files = [tmp_path / name / "model" / "model.keras" for name in ("stopped", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_four_ranks(ranks: Path, tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(ranks / "records")
    run_ranks("tests.training.horovod_training", tmp_path, 4)
    assert_alike(tmp_path / "rank-3" / "plateau", ranks / "rank-0" / "plateau", 2e-5)
