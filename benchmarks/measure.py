"""The measured process: does one piece of work and prints what it took, as one line of JSON.

Only the standard library, so that it runs in the environment of any peer. A script ends with

    if __name__ == "__main__":
        main(prepare)

where `prepare` gets the arguments (a dict), imports and warms up what is not to be measured, and returns the function
that is: it returns how much it did (a number), or a dict with that as `work` and other figures beside it. When it can
only tell itself which part of its time counts, it gives `seconds` as well.
"""

from __future__ import annotations

import cProfile
import io
import json
import platform
import pstats
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Union

__all__ = ["main"]

Work = Callable[[], Union[float, Mapping[str, float]]]  # noqa: UP007 - peers may have an older Python
_PROFILE_LINES = 30


def main(prepare: Callable[[Any], Work]) -> None:
    """Do the work of the arguments on the command line: `{"arguments": ..., "packages": [...], "profile": false}`."""
    given = json.loads(sys.argv[1])
    work = prepare(given["arguments"])
    profile = cProfile.Profile() if given.get("profile") else None
    if profile:
        profile.enable()
    begun, used = time.perf_counter(), _processor_seconds()
    result = work()
    seconds, used = time.perf_counter() - begun, _processor_seconds() - used
    if profile:
        profile.disable()
    given_figures = result.items() if isinstance(result, Mapping) else [("work", result)]
    figures = {name: float(value) for name, value in given_figures}  # NumPy's numbers are none of JSON's
    told = {
        "seconds": figures.pop("seconds", seconds),
        "work": figures.pop("work"),
        "peak_bytes": _peak_bytes(),
        "more": {"processor_seconds": used, **figures},
        "versions": {"python": platform.python_version(), **_versions(given.get("packages", ()))},
        "profile": _lines(profile) if profile else "",
    }
    sys.stdout.flush()
    print("\n" + json.dumps(told), flush=True)


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _peak_bytes() -> int:
    """Of this process; the harness looks at its children meanwhile.

    Not ru_maxrss, where there is better: it counts what the parent had before this program was loaded.
    """
    try:
        with Path("/proc/self/status").open() as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _versions(packages: Any) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _lines(profile: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(_PROFILE_LINES)
    return text.getvalue()
