"""`millrace upload`: a compiled pipeline into a target's UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from millrace.config import Settings, compose_and_call, read_settings
from millrace.errors import ConfigError

if TYPE_CHECKING:
    from millrace.services.kubeflow import Document
    from millrace.targets.kubeflow import Kubeflow

__all__ = ["compiled_document", "run", "the_target"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    return compose_and_call("upload", words, _upload)


def _upload(composed: Mapping[str, Any]) -> int:
    from millrace.services.kubeflow import connect, upload_document

    settings = read_settings(composed)
    connection = connect(the_target(settings))
    document = compiled_document(settings)
    version = upload_document(connection, document)
    told = "uploaded" if version.new else "is there already: this document was uploaded before"
    print(f"{document.name}: version {version.name} {told}{' (a new pipeline)' if version.first else ''}")
    print(f"see it: {version.link}")
    print(f"next: millrace submit {_same(settings)} target=kubeflow")
    return 0


def _same(settings: Settings) -> str:
    return f"document={settings.document}" if settings.document else f"pipeline={settings.pipeline.name}"


def the_target(settings: Settings) -> Kubeflow:
    """The target that is named.

    Raises:
        ConfigError: When there is none.
    """
    if settings.target is None:
        raise ConfigError("which target? Add target=kubeflow")
    return settings.target


def compiled_document(settings: Settings) -> Document:
    """The document that is named, or the pipeline compiled now; checked either way.

    Raises:
        ConfigError: When it can't be compiled.
        DataError: When the file is no such document.
    """
    from millrace.compilers.kubeflow import check_document, compile_pipeline
    from millrace.services.kubeflow.document import document_at, read_document, with_cache
    from millrace.specs.runtime_parameters import open_fields

    target = the_target(settings)
    if settings.document is not None:
        document = document_at(settings.document)
    else:
        pipeline, config = settings.load()
        document = read_document(compile_pipeline(open_fields(pipeline, config, settings.runtime), target))
    document = with_cache(document, settings.submit.cache)
    check_document(document.text, settings.compat or target.compat)
    return document
