"""`millrace rehearse`."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.errors import UnsupportedError

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    raise UnsupportedError("`millrace rehearse` is being built")
