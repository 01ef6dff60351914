"""What a container leaves, read as the backend's launcher reads it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.kubeflow.cache import Results
from millrace.runners.kubeflow.importer import as_stored
from millrace.runners.kubeflow.inputs import Artifact, Task
from millrace.runners.kubeflow.placeholders import artifact_place
from millrace.runners.kubeflow.record import MadeArtifact
from millrace.runners.kubeflow.run import Run
from millrace.runners.kubeflow.values import canonical, parse_text
from millrace.runners.store import SCHEMES, local_path

__all__ = ["collect", "read_executor_output"]


def collect(run: Run, task: Task, container: str, executor_input: Mapping[str, Any], uri: str, folder: Path) -> Results:
    """Fetch a container's outputs, and put its artifacts into the store.

    Raises:
        TaskFailedError: Where the backend's launcher would fail.
    """
    place = local_path(uri) or ""
    outputs = folder / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    fetched = run.engine.get(container, place, outputs)
    if fetched is not None:  # one folder for all artifacts, its last part the salt of their URIs
        for item in fetched.iterdir():
            item.replace(outputs / item.name)
        fetched.rmdir()
    told = outputs / "output_metadata.json"
    answer = read_executor_output(told.read_text()) if told.is_file() else {}
    results = Results(parameters=canonical(answer.get("parameterValues", {})))
    _parameters(run, task, container, executor_input, folder, results)
    for name, items in executor_input["outputs"]["artifacts"].items():
        if name not in task.component.get("outputDefinitions", {}).get("artifacts", {}):
            continue
        artifact = dict(items["artifacts"][0])
        changed = (answer.get("artifacts", {}).get(name, {}).get("artifacts") or [{}])[0]
        artifact["uri"] = changed.get("uri") or artifact["uri"]
        artifact["metadata"] = artifact.get("metadata", {}) | canonical(changed.get("metadata", {}))
        if changed.get("customPath"):
            artifact["customPath"] = changed["customPath"]
        local = _upload(run, container, artifact, place, outputs)
        stored = as_stored(name, artifact["metadata"])
        kind = artifact["type"].get("schemaTitle") or artifact["type"].get("instanceSchema") or ""
        results.records[name] = [
            MadeArtifact(uri=artifact["uri"], type=kind, path=local, metadata=artifact["metadata"])
        ]
        results.artifacts[name] = [
            {"name": "0", "type": {"instanceSchema": ""}, "uri": artifact["uri"], "metadata": stored}
        ]
    return results


def read_executor_output(text: str) -> dict[str, Any]:
    """Parse an executor output, strictly.

    Raises:
        TaskFailedError: When the backend can't read it.
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    messages: Any = pipeline_spec_pb2
    try:
        parsed = json_format.Parse(text, messages.ExecutorOutput())
        found: dict[str, Any] = json_format.MessageToDict(parsed)
    except (json_format.Error, ValueError) as error:
        raise TaskFailedError(f"the backend can't read the executor output: {error}") from None
    return found


def _parameters(
    run: Run, task: Task, container: str, executor_input: Mapping[str, Any], folder: Path, results: Results
) -> None:
    definitions = task.component.get("outputDefinitions", {}).get("parameters", {})
    wanted = [name for name in executor_input["outputs"]["parameters"] if name not in results.parameters]
    if not wanted:
        return
    files = run.engine.get(container, "/tmp/kfp/outputs", folder / "parameters")  # noqa: S108 - the backend's place
    for name in wanted:
        file = (files or folder) / name
        if not file.is_file():
            raise TaskFailedError(f"the backend refuses this: the container wrote no output parameter {name!r}")
        kind = definitions[name]["parameterType"]
        try:
            results.parameters[name] = parse_text(file.read_text(), kind)
        except ValueError as error:
            raise TaskFailedError(
                f"the backend can't read output parameter {name!r} as {kind}: {str(error)[:200]}"
            ) from None


def _upload(run: Run, container: str, artifact: Artifact, place: str, outputs: Path) -> Path | None:
    """Put an artifact into the store; our copy of it, or None when there is nothing."""
    path = artifact_place(artifact)
    uri = artifact["uri"]
    if path is None or uri.startswith("oci://"):
        return None  # the backend records such a URI, and copies nothing
    if not uri.startswith(f"{run.root}/") or not uri.startswith(SCHEMES):
        raise TaskFailedError(f"the backend can't upload an artifact to {uri}: that is not below {run.root}")
    inside = PurePosixPath(path)
    if inside.is_relative_to(place):
        local = outputs / inside.relative_to(place)
    else:
        found = run.engine.get(container, path, outputs / artifact["name"])
        local = found if found is not None else outputs / artifact["name"] / inside.name
    if not local.exists():
        return None
    run.store.upload(local, uri)
    return local
