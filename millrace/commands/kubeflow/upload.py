"""`millrace upload`: a compiled pipeline into a target's UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millrace.commands.of_target import Asked
from millrace.config import target_words
from millrace.errors import ConfigError
from millrace.settings import Settings

if TYPE_CHECKING:
    from millrace.services.kubeflow import Document

__all__ = ["compiled_document", "run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.kubeflow import connect, upload_document

    connection = connect(settings.kubeflow())
    document = compiled_document(settings)
    version = upload_document(connection, document)
    told = "uploaded" if version.new else "is there already: this document was uploaded before"
    print(f"{document.name}: version {version.name} {told}{' (a new pipeline)' if version.first else ''}")
    print(f"see it: {version.link}")
    print(f"next: millrace submit {_same(settings)} {target_words(asked.words)}")
    return 0


def _same(settings: Settings) -> str:
    return f"document={settings.document}" if settings.document else f"pipeline={settings.pipeline.name}"


def compiled_document(settings: Settings) -> Document:
    """The document that is named, or the pipeline compiled now; checked either way.

    Raises:
        ConfigError: When it can't be compiled.
        DataError: When the file is no such document.
        UnsupportedError: When the backend would refuse it.
    """
    from millrace.compilers.kubeflow import compile_pipeline
    from millrace.compilers.kubeflow.check import refuse_wrong
    from millrace.services.kubeflow.document import document_at, read_document, with_cache

    target = settings.kubeflow()
    if settings.document is not None:
        if settings.runtime:
            raise ConfigError("runtime: fields are left open when compiling; this document is compiled already")
        document = document_at(settings.document)
    else:
        document = read_document(compile_pipeline(settings.compose(), target))
    document = with_cache(document, settings.submit.cache)
    refuse_wrong(document.text, target.compat)
    return document
