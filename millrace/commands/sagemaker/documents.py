"""The definition that a command works on."""

from __future__ import annotations

from millrace.commands.of_target import Asked
from millrace.compilers.sagemaker import compile_pipeline
from millrace.compilers.sagemaker.names import pipeline_name
from millrace.errors import ConfigError, explain_os_error
from millrace.settings import Settings

__all__ = ["definition_text", "name_of"]

_NAMES = ("pipeline=", "pipeline.name=")


def definition_text(settings: Settings) -> str:
    """The document that is named, or the pipeline compiled now; checked either way.

    Raises:
        ConfigError: When it can't be read or compiled.
        UnsupportedError: When SageMaker would refuse it.
    """
    from millrace.compilers.sagemaker.check import refuse_wrong

    target = settings.sagemaker()
    if settings.document is None:
        text = compile_pipeline(settings.compose(), target)
    else:
        if settings.runtime:
            raise ConfigError("runtime: fields are left open when compiling; this document is compiled already")
        try:
            text = settings.document.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"document: {explain_os_error(error)}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"document: {settings.document} is no text in UTF-8") from None
    refuse_wrong(text)
    return text


def name_of(settings: Settings, asked: Asked) -> str:
    """The pipeline's name in SageMaker. A definition does not hold it: it is the file's, when nobody says another."""
    if settings.document is None or any(word.startswith(_NAMES) for word in asked.words):
        return pipeline_name(settings.pipeline.name)
    return pipeline_name(settings.document.name.partition(".")[0])
