"""Where ranks work below their task directory."""

from __future__ import annotations

from pathlib import Path

from millrace.runtime.context import Rank

__all__ = ["RANK_RESULT", "rank_folder"]

RANK_RESULT = "returned.json"
"""What a rank's `main` returned; last to appear."""


def rank_folder(directory: Path, rank: Rank) -> Path:
    """A rank's own folder, which goes when the task ends."""
    return directory / "scratch" / f"rank-{rank.index}"
