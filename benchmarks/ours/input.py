"""Takes batches of records as training does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Work, main
from benchmarks.taking import take_for
from millrace.training.data import inspect, training_batches
from millrace.training.parameters import TrainParameters


def prepare(given: dict[str, Any]) -> Work:
    """Given `records`, `batch`, `cache_mib` and `seconds`."""

    def work() -> dict[str, float]:
        started = time.perf_counter()
        parameters = TrainParameters(batch_size=given["batch"], cache_mib=given["cache_mib"])
        data = inspect(Path(given["records"]), parameters)
        batches = iter(training_batches(data, parameters, 0))
        return take_for(given["seconds"], batches, lambda batch: len(batch[1]), started)

    return work


if __name__ == "__main__":
    main(prepare)
