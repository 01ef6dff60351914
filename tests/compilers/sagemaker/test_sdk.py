"""What we compile is what SageMaker's own SDK makes of the same values, field by field.

Each of our definitions is taken apart, built again with the SDK's step classes (sdk_steps.py), and compared: Arguments,
retry policies, caches, property files, conditions, parameters. Where the SDK can't say something, or says it wrongly,
it stands in `UNKNOWN` and `ADDED`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.compilers.sagemaker.check import check_document
from tests.compilers.sagemaker.definitions import of_digits
from tests.compilers.sagemaker.documents import ROLE, clean

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Json = dict[str, Any]
ROOT = Path(__file__).parents[3]
NAMES = ("digits", "everything", "groups", "clean")

UNKNOWN: dict[str, str] = {
    r".*\.HyperParameterTuningJobConfig\.RandomSeed": "HyperparameterTuner leaves out a seed of 0",
    r".*\.(ProfilerConfig|DebugHookConfig)": "ModelTrainer has no setting for profiler and debugger",
    r".*\.DeploymentConfig": "PipelineSession.create_endpoint() takes no deployment configuration",
    r".*\.TrainingJobDefinition\.EnableInterContainerTrafficEncryption": "HyperparameterTuner drops the trainer's",
    r".*\.TrainingJobDefinition\.ResourceConfig\.VolumeKmsKeyId": "HyperparameterTuner drops the trainer's key",
}
"""What only we say, and why the SDK does not."""
ADDED: dict[str, Any] = {
    r"MlflowConfig": None,
    r".*\.S3Input\.S3CompressionType": "None",
    r".*\.OutputDataConfig\.CompressionType": "GZIP",
    r".*\.NetworkConfig\.EnableNetworkIsolation": False,
    r".*\.SkipModelValidation": "None",
    r".*\.Tags": [],
}
"""What only the SDK says: the service's own defaults."""


PLAIN: dict[str, Any] = {r"\.ResourceLimits\.\w+$": 7, r"RoleArn$": ROLE}
"""Fields that the SDK takes no variables for, at least in ModelTrainer and HyperparameterTuner, and a value."""


def definitions() -> dict[str, Json]:
    """Ours, with plain values where the SDK can't do with others."""
    found: dict[str, Json] = {"clean": clean()}
    for name in ("digits", "everything"):
        found[name] = json.loads((ROOT / "tests" / "goldens" / "sagemaker" / f"{name}.json").read_text())
    machines = [{"name": "cpu", "instance": "ml.m5.large", "count": 1}, {"name": "big", "instance": "ml.m5.xlarge"}]
    found["groups"] = of_digits(
        training={"groups": machines, "channels": {"records": "FastFile"}},
        tuning={"strategy": "Random", "early_stopping": "Off"},
    ).content
    for definition in found.values():
        for path, value in list(fields(definition)):
            for pattern, plain in PLAIN.items():
                if re.search(pattern, path) and isinstance(value, dict):
                    put(definition, path, plain)
    return found


def fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All fields with their paths; steps and parameters by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}".removeprefix("."), item
            yield from fields(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
            yield from fields(item, f"{path}[{index}]")


def put(definition: Any, path: str, value: Any) -> None:
    """Change the field at a path."""
    *way, last = re.findall(r"[^.\[\]]+", path)
    for key in way:
        definition = definition[int(key)] if isinstance(definition, list) else definition[key]
    definition[last] = value


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """What is not the same, but for what is known."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            below = f"{path}.{key}".removeprefix(".")
            if key not in theirs:
                if not any(re.fullmatch(pattern, below) for pattern in UNKNOWN):
                    yield f"{below}: only ours: {ours[key]}"
            elif key not in ours:
                known = [value for pattern, value in ADDED.items() if re.fullmatch(pattern, below)]
                if known != [theirs[key]]:
                    yield f"{below}: only the SDK's: {theirs[key]}"
            else:
                yield from differences(ours[key], theirs[key], below)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs or type(ours) is not type(theirs):
        yield f"{path}: {ours!r} is {theirs!r} in the SDK's"


@pytest.fixture(scope="module")
def ours() -> dict[str, Json]:
    return definitions()


@pytest.fixture(scope="module")
def theirs(ours: dict[str, Json], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    pytest.importorskip("boto3")
    home = tmp_path_factory.mktemp("home")
    answer = subprocess.run(
        [sys.executable, "-m", "tests.compilers.sagemaker.sdk_steps"],
        input=json.dumps(ours),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        timeout=240,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Json] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_same(name: str, ours: dict[str, Json], theirs: dict[str, Json]) -> None:
    assert list(differences(ours[name], theirs[name])) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_sdks_is_found_good(name: str, theirs: dict[str, Json]) -> None:
    errors = [str(one) for one in check_document(json.dumps(theirs[name])) if one.severity == "error"]
    assert errors == []


def test_each_kind_of_step_was_compared(ours: dict[str, Json]) -> None:
    kinds = {value for one in ours.values() for path, value in fields(one) if re.search(r"Steps\[\d+\]\.Type$", path)}
    assert kinds >= {"Processing", "Training", "Tuning", "Condition", "Fail", "Transform"}
    assert kinds >= {"Model", "RegisterModel", "EndpointConfig", "Endpoint"}


def test_a_difference_is_seen(ours: dict[str, Json], theirs: dict[str, Json]) -> None:
    changed = json.loads(json.dumps(ours["clean"]))
    changed["Steps"][0]["Arguments"]["ProcessingResources"]["ClusterConfig"]["VolumeSizeInGB"] = 31
    (told,) = differences(changed, theirs["clean"])
    assert "VolumeSizeInGB: 31 is 30" in told
