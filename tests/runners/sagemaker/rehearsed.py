"""Rehearsals of definitions in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.runners.sagemaker.record import Rehearsal
from millrace.runners.sagemaker.rehearsal import rehearse
from millrace.runners.settings import Rehearse

Rehearsed = Callable[..., Rehearsal]


def states(record: Rehearsal) -> dict[str, str]:
    return {name: str(step.state) for name, step in sorted(record.steps.items())}


def run_rehearsal(
    folder: Path, text: str, parameters: dict[str, Any], watch: Callable[[Rehearsal], None], **settings: Any
) -> Rehearsal:
    record, _ = rehearse(text, Rehearse(root=folder, **settings), parameters, name="toy", watch=watch)
    return record
