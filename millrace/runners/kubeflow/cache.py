"""Results of earlier rehearsals: a task that was run before with equal inputs need not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from millrace.runners.kubeflow.inputs import Artifact, Inputs, Task
from millrace.runners.kubeflow.record import MadeArtifact
from millrace.runtime.task import write_atomically

__all__ = ["Results", "find_results", "fingerprint", "keep_results"]


class Results(BaseModel):
    """Outputs of one task."""

    parameters: dict[str, Any] = {}
    artifacts: dict[str, list[Artifact]] = {}
    records: dict[str, list[MadeArtifact]] = {}


def fingerprint(task: Task, inputs: Inputs, container: Mapping[str, Any], image: str, claims: list[str]) -> str:
    """What decides on a task's results: its inputs, its declaration, its image's content, its volumes."""
    options = task.spec.get("cachingOptions", {})
    found: dict[str, Any] = {"component": task.label, "key": options.get("cacheKey")}
    if not options.get("cacheKey"):
        found |= {
            "parameters": inputs.parameters,
            "artifacts": {name: [item["uri"] for item in items] for name, items in inputs.artifacts.items()},
            "outputs": task.component.get("outputDefinitions", {}),
            "container": dict(container),
            "claims": sorted(claims),
        }
    found["image"] = image
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def find_results(folder: Path, key: str) -> Results | None:
    """Results of an earlier task whose copies are all still there."""
    try:
        found = Results.model_validate_json((folder / f"{key}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    paths = [made.path for items in found.records.values() for made in items if made.path is not None]
    return found if all(path.exists() for path in paths) else None


def keep_results(folder: Path, key: str, results: Results) -> None:
    """Keep a task's results for later rehearsals."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{key}.json", results.model_dump_json())
