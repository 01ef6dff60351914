"""The page that shows all results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import SuiteResult


def write_page(results: Sequence[SuiteResult], path: Path) -> Path:
    path.write_text("x")
    return path
