"""Deployments, registered models and batch transform are what SageMaker's own SDK makes of the same values."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compilers.sagemaker.definitions import nested
from tests.compilers.sagemaker.test_sdk import PLAIN, differences, fields, put
from tests.compilers.sagemaker.test_serving import compiled, spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Json = dict[str, Any]
ROOT = Path(__file__).parents[3]
SETTINGS: dict[str, Json] = {
    "whole": {
        "weight": 9,
        "variants": [{"name": "old", "model": "old-model", "weight": 1}],
        "capture": {"percent": 20, "answers": False},
        "registration": {"group": "digits", "description": "of numbers", "approval": "Approved"},
    },
}
NETWORK = {"subnets": ["subnet-12345678"], "security_groups": ["sg-12345678"], "isolate": True}


@pytest.fixture(scope="module")
def ours() -> dict[str, Json]:
    pipeline = spec(predict={}, deploy={"name": "digits", "scaling": {"min_replicas": 2, "max_replicas": 2}})
    keys = {"volume_key": "alias/volumes", "output_key": "alias/outputs", "tags": {"team": "vision"}}
    found: dict[str, Json] = {}
    for name, serving in SETTINGS.items():
        found[name] = compiled(pipeline, serving, network=NETWORK, transform={"concurrent": 4}, **keys).content
        for path, value in list(fields(found[name])):
            for pattern, plain in PLAIN.items():
                if re.search(pattern, path) and isinstance(value, dict):
                    put(found[name], path, plain)
    return found


@pytest.fixture(scope="module")
def theirs(ours: dict[str, Json], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    answer = subprocess.run(
        [sys.executable, "-m", "tests.compilers.sagemaker.sdk_steps"],
        input=json.dumps(ours),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"HOME": str(tmp_path_factory.mktemp("home")), "PATH": os.environ["PATH"]},
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Json] = json.loads(answer.stdout)
    return found


def chosen(definition: Json) -> dict[str, Json]:
    steps = {step["Name"]: step for step in nested(definition["Steps"])}
    return {name: step for name, step in steps.items() if name.startswith(("deploy", "predict"))}


@pytest.mark.parametrize("name", SETTINGS)
def test_same(name: str, ours: dict[str, Json], theirs: dict[str, Json]) -> None:
    assert list(differences(chosen(ours[name]), chosen(theirs[name]))) == []
