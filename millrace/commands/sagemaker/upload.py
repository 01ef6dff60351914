"""`millrace upload`: a compiled pipeline into SageMaker."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from millrace.commands.of_target import Asked
from millrace.commands.sagemaker.documents import definition_text, name_of
from millrace.settings import Settings

if TYPE_CHECKING:
    from millrace.services.sagemaker import Document

__all__ = ["compiled_document", "run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.services.sagemaker import session, upsert_pipeline
    from millrace.services.sagemaker.pipelines import pipeline_role

    opened = session(settings.sagemaker())
    document = compiled_document(settings, asked)
    done = upsert_pipeline(opened, document, pipeline_role(opened.target, {}))
    print(
        f"pipeline {document.name}: {done.change}{f', its definition is at {done.location}' if done.location else ''}"
    )
    print(f"see it: {done.link}")
    print(f"next: millrace submit {shlex.join(asked.words)}")
    return 0


def compiled_document(settings: Settings, asked: Asked) -> Document:
    """The definition that is named, or the pipeline compiled now; checked either way.

    Raises:
        ConfigError: When it can't be read or compiled.
        UnsupportedError: When SageMaker would refuse it.
    """
    from millrace.services.sagemaker.document import read_document, with_cache

    document = read_document(
        definition_text(settings), name_of(settings, asked), str(settings.document or "the pipeline")
    )
    return with_cache(document, settings.submit.cache)
