"""Makes record files of pictures: the preprocess component, from its shards to the files' last bytes."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Work, main
from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.runtime.schemas import ShardCounts, read_json_model
from millrace.testing import run_component


def prepare(given: dict[str, Any]) -> Work:
    """Given `shards`, `side`, `cores` and `concurrency`."""
    for module in ("main", "pictures"):  # to load them is no part of the work
        import_module(f"millrace.components.preprocess.{module}")
    data = ImageData(height=given["side"], width=given["side"])
    parameters = PreprocessParameters(data=data, concurrency=given["concurrency"], max_error_rate=0)

    def work() -> int:
        with tempfile.TemporaryDirectory(dir=Path(given["shards"]).parent) as folder:
            ran = run_component(
                preprocess, parameters, Path(folder), cores=given["cores"], shards=Path(given["shards"])
            )
            files = ran.outputs["records"].glob("train-*.json")
            return sum(read_json_model(file, ShardCounts).records for file in files)

    return work


if __name__ == "__main__":
    main(prepare)
