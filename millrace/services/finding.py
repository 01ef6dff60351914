"""What `millrace doctor` has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

__all__ = ["Finding", "installed"]


class Finding(NamedTuple):
    """One thing that was looked at."""

    good: bool | None
    """None: it was not looked at, and why is told."""
    what: str
    mend: str = ""
    """The line that mends it."""


def installed(extra: str, packages: Sequence[str], purpose: str) -> Finding:
    """Whether packages are there.

    Args:
        extra: The extra of this project that brings them.
        packages: Their names.
        purpose: What they are for.
    """
    found = {name: _version(name) for name in packages}
    missing = [name for name, known in found.items() if known is None]
    told = ", ".join(f"{name} {known}" for name, known in found.items() if known)
    what = f"packages to {purpose}: " + (f"no {', '.join(missing)}" if missing else told)
    return Finding(not missing, what, f"pip install -e '.[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
