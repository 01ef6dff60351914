"""kfp's own local runner runs what is compiled, in the real images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from millrace.compilers.kubeflow.pipeline import compile_pipeline
from millrace.components.digits.spec import DigitsParameters
from millrace.components.digits.spec import digits as write_digits
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.shard.spec import ShardParameters, shard
from millrace.specs import PipelineConfig, pipeline
from millrace.targets.kubeflow import Kubeflow


@pipeline
def pictures_to_shards(config: PipelineConfig) -> None:
    """Write digits, list and shard them."""
    written = write_digits.with_options(name="written")(DigitsParameters(limit=60))
    listing = manifest(ManifestParameters(), dataset=written.dataset)
    shard(ShardParameters(shards=2), manifest=listing.manifest)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.usefixtures("after_kfp_local")
def test_kfps_docker_runner_runs_it(
    tmp_path: Path, docker_engine: Any, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appends the command to the image's entry point, and knows no user but the one it is told."""
    from kfp import components, local

    monkeypatch.chdir(tmp_path)
    Path("document.yaml").write_text(compile_pipeline(pictures_to_shards.compose(PipelineConfig()), Kubeflow()))
    local.init(local.DockerRunner(user=str(os.getuid())), pipeline_root="out", raise_on_error=True)
    components.load_component_from_file("document.yaml")()
    [plan] = Path("out").glob("*/shard/shards/plan.json")
    assert '"objects"' in plan.read_text()
    [answer] = Path("out").glob("*/shard/executor_output.json")
    assert '"imbalance"' in answer.read_text()
