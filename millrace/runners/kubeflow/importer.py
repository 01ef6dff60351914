"""Importers: an artifact that is there already gets a name in the run."""

from __future__ import annotations

from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.kubeflow.inputs import Artifact, Outcome, Scope, Task
from millrace.runners.kubeflow.run import Run
from millrace.runners.kubeflow.values import canonical, kind_of
from millrace.runners.record import TaskState

__all__ = ["as_stored", "import_artifact"]

_SESSION = '{"Provider":"s3","Params":{"fromEnv":"true"}}'


async def import_artifact(run: Run, task: Task, scope: Scope) -> Outcome:
    """Give an artifact that is in a store to the run; nothing is copied or looked at.

    Raises:
        TaskFailedError: When its URI can't be had.
    """
    importer = run.view.executors[task.component["executorLabel"]]["importer"]
    source = importer.get("artifactUri", {})
    uri = source.get("constant")
    if uri is None:
        name = source.get("runtimeParameter", "")
        inner = task.spec.get("inputs", {}).get("parameters", {}).get(name, {}).get("componentInputParameter")
        if inner is None or inner not in scope.inputs.parameters:
            raise TaskFailedError(
                f"the backend can't resolve the URI of this importer: parameter {name!r} must come from the pipeline's "
                "own parameters, not from a task or a constant"
            )
        uri = scope.inputs.parameters[inner]
    if not isinstance(uri, str) or not uri or "{{" in uri:
        raise TaskFailedError(f"the backend can't import {uri!r}: it is no URI")
    if not uri.startswith(("s3://", "minio://", "gs://", "oci://", "mem://")):
        raise TaskFailedError(f"the backend can't import {uri}: it knows s3://, minio://, gs:// and oci:// only")
    names = list(task.component["outputDefinitions"]["artifacts"])
    metadata = as_stored(names[0], canonical(importer.get("metadata", {})))
    del metadata["display_name"]
    artifact: Artifact = {"name": "0", "type": {"instanceSchema": ""}, "uri": uri, "metadata": metadata}
    run.record.tasks[scope.name(task.name)].image = ""
    return Outcome(TaskState.SUCCEEDED, artifacts={names[0]: [artifact]})


def as_stored(name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata after its way through the backend's store: lists and mappings are wrapped, truth is a number.

    Raises:
        TaskFailedError: When the store has no form for a value.
    """
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        if key == "_kfp_workspace":
            continue
        if value is None:
            raise TaskFailedError(f"the backend can't store the metadata {key!r} of {name!r}: null has no form there")
        if isinstance(value, bool):
            found[key] = int(value)
        else:
            kind = kind_of(value)
            found[key] = {kind: value} if kind in ("list", "struct") else value
    return {"display_name": name, "store_session_info": _SESSION, **canonical(found)}
