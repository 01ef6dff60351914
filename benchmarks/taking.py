"""Takes batches for some seconds; the standard library only, for peers too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["take_for"]

_WARM_UP = 4


def take_for(seconds: float, batches: Iterator[Any], size: Callable[[Any], int], started: float) -> dict[str, float]:
    """What a batch after the other gives, after a few that do not count.

    Args:
        seconds: How long.
        batches: Endless.
        size: Samples of a batch.
        started: `time.perf_counter()` before anything was read: the first batch tells how long that took.
    """
    size(next(batches))
    first = time.perf_counter() - started
    for _ in range(_WARM_UP):
        size(next(batches))
    begun, taken = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        taken += size(next(batches))
    return {"work": taken, "seconds": time.perf_counter() - begun, "first_batch_seconds": first}
