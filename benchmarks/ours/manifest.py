"""Runs the manifest component on a listing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import Work, main
from millrace.components.manifest.main import main as manifest
from millrace.components.manifest.spec import ManifestInputs, ManifestOutputs, ManifestParameters
from millrace.runtime.context import Context
from millrace.specs import Manifest, Metrics, Rejects


def prepare(given: dict[str, Any]) -> Work:
    """Given `source` and `folder`, where all is written; the endpoint is in the environment."""
    folder = Path(given["folder"])
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier round
    folders = {name: folder / name for name in ("manifest", "rejects", "metrics", "scratch", "checkpoints")}
    for place in folders.values():
        place.mkdir(parents=True)
    outputs = ManifestOutputs.model_construct(
        manifest=Manifest(location=folders["manifest"]),
        rejects=Rejects(location=folders["rejects"]),
        metrics=Metrics(location=folders["metrics"]),
    )
    context = Context(scratch=folders["scratch"], checkpoints=folders["checkpoints"], progress_file=folder / "progress")
    parameters = ManifestParameters(source=given["source"], contents="listed")

    def work() -> int:
        manifest(parameters, ManifestInputs(), outputs, context)
        table = folders["manifest"] / "index.parquet"
        return int(pl.scan_parquet(table).select(pl.len()).collect().item())

    return work


if __name__ == "__main__":
    main(prepare)
