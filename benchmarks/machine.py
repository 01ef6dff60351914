"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
from pydantic import JsonValue

from millrace import __version__
from millrace.runners.revision import revision
from millrace.runtime.pages import size

__all__ = ["cores", "machine", "processor"]


def cores() -> list[int]:
    """Numbers of the processor cores that may be used."""
    return sorted(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's own name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, JsonValue]:
    """Processor, memory, system, and the code that was measured."""
    return {
        "processor": processor(),
        "cores": len(cores()),
        "memory": size(psutil.virtual_memory().total),
        "system": platform.platform(),
        "python": platform.python_version(),
        "millrace": __version__,
        "revision": revision(Path(__file__).parent),
    }
