"""How a compiled document is rehearsed on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from millrace.specs import Frozen

__all__ = ["Rehearse"]


class Rehearse(Frozen):
    """Settings of a rehearsal."""

    root: Path = Path("build/rehearsals")
    """Folder that gets one folder for each rehearsal: its record, logs and outputs."""
    parallel: int = Field(default_factory=lambda: max(2, len(os.sched_getaffinity(0))), ge=1)
    """Containers that run at the same time; for SageMaker jobs, each with all its hosts."""
    pipeline_root: str | None = None
    """Kubeflow: URI (`s3://bucket/prefix`) below which artifacts are stored; null takes the document's, or a bucket of
    this rehearsal."""
    endpoint: str | None = None
    """URL of an S3-compatible store that is there already, with credentials in the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY); null starts one that lives as long as the rehearsal."""
    seed: dict[str, Path] = Field(default_factory=dict)
    """Folders or files that are put into the store before: `{bucket/prefix: folder}`."""
    secrets: Path | None = None
    """Kubeflow: YAML file with the Secrets that the document names: `{name: {key: value}}`."""
    config_maps: Path | None = None
    """Kubeflow: YAML file with the ConfigMaps that the document names: `{name: {key: value}}`."""
    cache: bool = False
    """Kubeflow: take results of earlier rehearsals where the document lets the backend do so and the image is the
    same."""
    interrupt: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """SageMaker: after how many seconds the spot machine of a training step is taken away, once: `{train: 5}`."""
    hold: bool = False
    """SageMaker: keep endpoints answering after the last step, until Ctrl-C."""
    keep: int = Field(default=20, ge=1)
    """Rehearsals whose folders are kept; older ones are removed."""
