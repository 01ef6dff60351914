"""The command in the image itself, under the restrictions that a cluster may put on a pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.docker

OUTPUT = {"artifacts": [{"name": "dataset", "uri": "s3://store/run/dataset", "metadata": {}}]}


@pytest.mark.parametrize(("limit", "code"), [(2, 0), (0, 2)])
def test_as_an_arbitrary_user_with_nothing_writable_but_tmp_and_the_store(
    docker_engine: Any, images: dict[str, str], tmp_path: Path, limit: int, code: int
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    store.mkdir()
    log.touch()
    for path in (store, log):
        path.chmod(0o777)
    given = {
        "inputs": {"parameterValues": {"parameters": json.dumps({"limit": limit})}},
        "outputs": {"artifacts": {"dataset": OUTPUT}, "outputFile": "/s3/store/run/output_metadata.json"},
    }
    container = docker_engine.containers.run(
        images["data"],
        entrypoint=["millrace", "exec", "digits"],
        command=["--executor-input", json.dumps(given), "--run", "run", "--task", "pictures"],
        detach=True,
        read_only=True,
        tmpfs={"/tmp": ""},  # the container's
        user="12345:0",
        cap_drop=["ALL"],
        network_mode="none",
        nano_cpus=1_000_000_000,
        volumes=[f"{store}:/s3", f"{log}:/dev/termination-log"],
    )
    try:
        assert container.wait(timeout=120)["StatusCode"] == code, container.logs().decode()
    finally:
        container.remove(force=True)
    if code:
        assert log.read_text() == "pictures.limit: Input should be greater than or equal to 1 (given: 0)"
        assert list(store.iterdir()) == []
    else:
        answer = json.loads((store / "store" / "run" / "output_metadata.json").read_text())
        assert answer["artifacts"]["dataset"]["artifacts"][0]["metadata"] == {"objects": 20}
        assert len(list((store / "store" / "run" / "dataset").rglob("*.png"))) == 20
