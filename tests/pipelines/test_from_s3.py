"""Pictures in S3 to records through the command line: a throttled store, and no credential left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from millrace.components.digits.spec import DigitsParameters, digits
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.components.shard.spec import ShardParameters, shard
from millrace.runners.record import PipelineRun
from millrace.specs import PipelineConfig, pipeline
from millrace.testing import run_component
from tests.conftest import SECRET_KEY, Bucket
from tests.faults import Refusal, faulty_proxy

ROOT = Path(__file__).parents[2]


class FromS3(PipelineConfig):
    manifest: ManifestParameters
    shard: ShardParameters = ShardParameters()
    preprocess: PreprocessParameters = PreprocessParameters()


@pipeline
def from_s3(config: FromS3) -> None:
    """The first half of an image classification."""
    listing = manifest(config.manifest)
    plan = shard(config.shard, manifest=listing.manifest)
    preprocess.with_options(shares=2)(config.preprocess, shards=plan.shards)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my_config" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "from_s3.yaml").write_text(
        "# @package _global_\n"
        "pipeline: {name: from_s3, function: 'tests.pipelines.test_from_s3:from_s3'}\n"
        "preprocess: {data: {kind: image, height: 8, width: 8, channels: 1}}\n"
    )
    return tmp_path


def test_survives_throttling_and_leaves_no_credential(
    project: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = run_component(digits, DigitsParameters(limit=12), project / "digits").outputs["dataset"]
    source = s3.upload(pictures, "digits")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    slow_down = Refusal(503, "SlowDown")
    with faulty_proxy(s3.endpoint, lambda number, path: slow_down if number % 5 == 0 else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        words = ["run", "--config-dir", "my_config", "pipeline=from_s3", f"manifest.source={source}"]
        answer = subprocess.run(
            [sys.executable, "-m", "millrace", *words], cwd=project, capture_output=True, text=True, check=False
        )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert proxy.injected
    (folder,) = (project / ".millrace" / "runs").iterdir()
    record = PipelineRun.read(folder)
    assert record.tasks["manifest"].metrics["objects"] == 120
    files = [file for file in (project / ".millrace").rglob("*") if file.is_file()]
    for secret in (SECRET_KEY, "test-access-key"):
        assert secret not in answer.stdout + answer.stderr
        assert [file for file in files if secret.encode() in file.read_bytes()] == []
