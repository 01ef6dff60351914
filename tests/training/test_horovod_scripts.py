"""People's own Keras scripts on several ranks: as one process on all the data."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from millrace.training.ranks import Alone
from tests.conftest import needed

if find_spec("horovod") is None:
    needed("needs Horovod: make horovod")

from tests.training.horovod_scripts import SCRIPTS, script, variables

pytestmark = pytest.mark.slow

LOAD = """
import sys
sys.modules["horovod"] = sys.modules["millrace"] = None  # can't be imported
import keras
model = keras.models.load_model(sys.argv[1])
assert type(model.optimizer) is keras.optimizers.Adam and int(model.optimizer.iterations) == 4
"""


@pytest.mark.parametrize("case", SCRIPTS)
def test_as_one_process(two_ranks: Path, case: str) -> None:
    model, history = script(case, Alone())
    *_, tolerance = SCRIPTS[case]
    with np.load(two_ranks / "rank-0" / "scripts" / f"{case}.npz") as saved:
        for mine, yours in zip(saved.values(), variables(model), strict=True):
            assert np.allclose(mine, yours, rtol=0, atol=tolerance)
    found = json.loads((two_ranks / "rank-0" / "scripts" / f"{case}.json").read_text())
    assert found == {name: pytest.approx(values, abs=tolerance, nan_ok=True) for name, values in history.items()}


@pytest.mark.parametrize("case", SCRIPTS)
def test_the_same_on_both_ranks(two_ranks: Path, case: str) -> None:
    for file in (f"{case}.npz", f"{case}.json"):
        first, second = (two_ranks / f"rank-{index}" / "scripts" / file for index in range(2))
        assert first.read_bytes() == second.read_bytes()


def test_a_saved_model_loads_without_horovod(two_ranks: Path) -> None:
    saved = two_ranks / "rank-0" / "scripts" / "adam.keras"
    subprocess.run([sys.executable, "-c", LOAD, str(saved)], check=True)
