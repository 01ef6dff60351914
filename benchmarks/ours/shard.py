"""Plans the shards of a manifest, and writes them when there is a folder for them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Work, main
from millrace.components.shard.seats import read_listed, take_seats
from millrace.components.shard.spec import ShardParameters
from millrace.components.shard.writing import write_shards
from millrace.runtime.context import Context


def prepare(given: dict[str, Any]) -> Work:
    """Given `index`, a lineage table; `shards`; and `folder`, in which they are written."""
    index, shards, folder = Path(given["index"]), int(given["shards"]), given.get("folder")
    parameters = ShardParameters(shards=shards)

    def work() -> dict[str, float]:
        listed = read_listed(index, hashes=False)
        seats = take_seats(listed, parameters, {})
        if folder is not None:
            _write(index, Path(folder), seats)
        loads = np.bincount(seats.shards, weights=listed.sizes, minlength=shards)
        numbers = np.bincount(seats.shards, minlength=shards)
        return {
            "work": len(seats.shards),
            "imbalance_percent": 100 * float(loads.max() / loads.mean() - 1),
            "difference_of_numbers": float(numbers.max() - numbers.min()),
        }

    return work


def _write(index: Path, folder: Path, seats: Any) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        context = Context(scratch=Path(name), checkpoints=Path(name))
        write_shards(index, Path(name), seats, context)


if __name__ == "__main__":
    main(prepare)
