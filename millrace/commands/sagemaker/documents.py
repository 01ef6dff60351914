"""The definition that a command works on."""

from __future__ import annotations

from millrace.compilers.sagemaker import compile_pipeline
from millrace.errors import ConfigError, explain_os_error
from millrace.settings import Settings

__all__ = ["definition_text"]


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
