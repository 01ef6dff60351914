"""Measures steps from within the process that takes them, when it is told to."""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import sys
import time
from collections.abc import Callable

__all__ = ["READY", "Stopwatch"]

READY = "ready"
_PROFILE_LINES = 25


class Stopwatch:
    """Holds the process between measurements, which come as lines `go STEPS` or `profile STEPS`.

    The first one may begin after `warm_up` steps. Each is answered by a line of JSON.
    """

    def __init__(self, warm_up: int) -> None:
        self._due = warm_up
        self._done = 0
        self._finish: Callable[[int], dict[str, object]] | None = None

    def step(self, done: int) -> None:
        """To be called after each step with the number of steps so far.

        Raises:
            SystemExit: When nothing more will be asked.
        """
        if done < self._due:
            return
        if self._finish is not None:
            print(json.dumps(self._finish(done)), flush=True)
        else:
            print(READY, flush=True)
        what, _, steps = sys.stdin.readline().strip().partition(" ")
        if not what:
            raise SystemExit
        self._due = done + int(steps)
        self._finish = _profiled(done) if what == "profile" else _timed(done)


def _timed(first: int) -> Callable[[int], dict[str, object]]:
    begun, used = time.perf_counter(), time.process_time()

    def finish(done: int) -> dict[str, object]:
        seconds, processor = time.perf_counter() - begun, time.process_time() - used
        return {"steps": done - first, "seconds": seconds, "processor_seconds": processor}

    return finish


def _profiled(first: int) -> Callable[[int], dict[str, object]]:
    profile = cProfile.Profile()

    def finish(done: int) -> dict[str, object]:
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative").print_stats(_PROFILE_LINES)
        return {"steps": done - first, "profile": text.getvalue()}

    profile.enable()
    return finish
