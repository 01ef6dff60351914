"""Ranks that really train, joined by Horovod."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from millrace.components.train.spec import TrainParameters, train
from millrace.runtime.task import GivenArtifact, TaskRequest
from millrace.testing import run_component
from millrace.training.options.elastic import Elastic
from millrace.training.options.models import Mlp
from tests.components.train_data import write_records
from tests.conftest import needed
from tests.runtime.launcher.groups import group_of

pytestmark = pytest.mark.slow

PLAIN = TrainParameters(
    model=Mlp(units=(16,), dropout=0, batch_norm=False),
    epochs=60,
    early_stopping=None,
    batch_size=15,
    checkpoint_steps=2,
    peer_seconds=60,
)


@pytest.fixture(autouse=True)
def horovod() -> None:
    if find_spec("horovod") is None:
        needed("needs Horovod: make horovod")


def history(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "checkpoints" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_after_the_loss_of_a_host_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records")
    request = TaskRequest(
        name="train",
        component=train.spec.entry,
        parameters=PLAIN.model_copy(update={"elastic": Elastic()}).model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
        cores=2,
    )
    with group_of(tmp_path / "elastic", request, hosts=2, processes=1) as group:
        alone = run_component(train, PLAIN, tmp_path / "alone", records=records).outputs["model"].parents[1]
        group.wait_for("epoch=4", seconds=120)
        group.kill_host(1)
        assert group.wait(180)[0] == 0, group.log()
        assert "1 rank on 1 host (1 missing)" in group.log()
        assert "going on from step" in group.log()
        for mine, yours in zip(history(group.directory(0)), history(alone), strict=True):
            assert mine == pytest.approx(yours, abs=2e-5)
