"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["cores", "machine", "processor"]

_PACKAGES = ("millrace", "tensorflow", "keras", "numpy", "horovod")


def cores() -> list[int]:
    """Numbers of the processor cores that may be used."""
    return sorted(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's own name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, object]:
    """Processor, system and versions."""
    return {
        "processor": processor(),
        "cores": len(cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
