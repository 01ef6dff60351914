"""What decides on a task's outputs, as one key; equal keys need not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from millrace.runtime.code import code_digest
from millrace.runtime.context import Share
from millrace.specs import ComponentSpec, Task

__all__ = ["task_key"]


def task_key(
    task: Task,
    component: ComponentSpec,
    inputs: Mapping[str, Iterable[str]],
    share: Share,
    outside: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 of a task's component version and code, parameters, input contents and share.

    Args:
        task: The task.
        component: Its component.
        inputs: Digests of the input artifacts' contents, by port.
        share: The worker's share of the shards.
        outside: Digests of what parameters name outside the pipeline, by dotted name.
    """
    facts = {
        "component": component.name,
        "version": component.version,
        "code": code_digest(component.main.partition(":")[0]),
        "parameters": task.parameters,
        "inputs": {port: list(digests) for port, digests in sorted(inputs.items())},
        "share": [share.index, share.count],
        "outside": dict(sorted((outside or {}).items())),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
