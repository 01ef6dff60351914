"""What a check says about a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, order=True)
class Finding:
    """What is wrong with a document, and where."""

    severity: Literal["error", "warning"]
    path: str
    """Of the field: `root.dag.tasks.train.retryPolicy.maxRetryCount`."""
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.path}: {self.message}" if self.path else f"{self.severity}: {self.message}"
