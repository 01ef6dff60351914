"""Pipelines in the UI and their versions, one for each document that differs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from millrace.services.kubeflow.connection import Connection, ServiceError, filtered, in_path
from millrace.services.kubeflow.document import Document

__all__ = ["Version", "find_pipeline", "upload_document"]


class Version(NamedTuple):
    """A version of a pipeline in the UI."""

    pipeline_id: str
    version_id: str
    name: str
    link: str
    new: bool
    """Whether it was made by this call."""
    first: bool
    """Whether the pipeline itself was made by this call."""


def upload_document(connection: Connection, document: Document, description: str = "") -> Version:
    """Make a document a version of the pipeline of its name; the same document never twice.

    The version's name holds a hash of the document. The pipeline is made first and empty, so that a
    process that was killed here leaves nothing which the next one can't go on from.

    Raises:
        ServiceError: When the API can't be reached or refuses.
    """
    pipeline = find_pipeline(connection, document.name)
    first = pipeline is None
    if pipeline is None:
        pipeline = _create_pipeline(connection, document.name, description)
    existing = _find_version(connection, pipeline, document.version)
    made = existing or _create_version(connection, pipeline, document)
    link = f"{connection.ui}/#/pipelines/details/{pipeline}/version/{made}"
    return Version(pipeline, made, document.version, link, existing is None, first)


def find_pipeline(connection: Connection, name: str) -> str | None:
    """Id of the pipeline of this name."""
    try:
        found = connection.get(f"/pipelines/names/{in_path(name)}", namespace=connection.namespace)
    except ServiceError as error:
        if error.status == 404:
            return None
        raise
    return str(found["pipeline_id"])


def _create_pipeline(connection: Connection, name: str, description: str) -> str:
    body = {"name": name, "display_name": name, "description": description, "namespace": connection.namespace}
    try:
        return str(connection.post("/pipelines", {key: value for key, value in body.items() if value})["pipeline_id"])
    except ServiceError:
        other = find_pipeline(connection, name)  # somebody else was faster, or the answer was lost
        if other is None:
            raise
        return other


def _find_version(connection: Connection, pipeline: str, name: str) -> str | None:
    path = f"/pipelines/{in_path(pipeline)}/versions"
    page = connection.get(path, page_size=10, filter=filtered(display_name=name))
    for version in page.get("pipeline_versions") or []:
        if name in (version.get("name"), version.get("display_name")):
            return str(version["pipeline_version_id"])
    return None


def _create_version(connection: Connection, pipeline: str, document: Document) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{document.version}.yaml"
        file.write_bytes(document.text.encode())
        try:
            made = connection.upload("/pipelines/upload_version", file, name=document.version, pipelineid=pipeline)
        except ServiceError:
            other = _find_version(connection, pipeline, document.version)
            if other is None:
                raise
            return other
    return str(made["pipeline_version_id"])
