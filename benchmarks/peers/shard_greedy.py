"""Plans shards as one writes it down: the largest object first, each to the lightest shard of a heap."""

from __future__ import annotations

import heapq
from array import array
from pathlib import Path
from typing import Any

from benchmarks.measure import Work, main


def prepare(given: dict[str, Any]) -> Work:
    """Given `sizes`, a file of 64-bit integers, and `shards`."""
    path, shards = Path(given["sizes"]), int(given["shards"])

    def work() -> dict[str, float]:
        sizes = array("q")
        sizes.frombytes(path.read_bytes())
        heap = [(0, shard) for shard in range(shards)]
        owners = array("i", bytes(4 * len(sizes)))
        numbers = [0] * shards
        for item in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
            load, shard = heap[0]
            heapq.heapreplace(heap, (load + sizes[item], shard))
            owners[item] = shard
            numbers[shard] += 1
        loads = [load for load, _ in heap]
        return {
            "work": len(owners),
            "imbalance_percent": 100 * (max(loads) * shards / sum(loads) - 1),
            "difference_of_numbers": max(numbers) - min(numbers),
        }

    return work


if __name__ == "__main__":
    main(prepare)
