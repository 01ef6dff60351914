"""What `millrace doctor` has looked at."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One thing that was looked at."""

    good: bool | None
    """None: it was not looked at, and why is told."""
    what: str
    mend: str = ""
    """The line that mends it."""
