"""`millrace rehearse`: a pipeline definition in containers on this machine, by the contracts of SageMaker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from millrace.errors import ConfigError, explain_os_error

if TYPE_CHECKING:
    from millrace.commands.of_target import Asked
    from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.runners.record import RunState
    from millrace.runners.sagemaker.display import Display
    from millrace.runners.sagemaker.rehearsal import rehearse
    from millrace.targets.sagemaker import SageMaker

    target = settings.sagemaker() if settings.target or not settings.document else SageMaker()
    if settings.document:
        text, name = _read(settings.document), settings.document.name.split(".")[0]
    else:
        from millrace.compilers.sagemaker import compile_pipeline

        text, name = compile_pipeline(settings.compose(), target), settings.pipeline.name.replace("_", "-")
    with Display() as display:
        record, directory = rehearse(
            text, settings.rehearse, settings.parameters, target.region, name, watch=display.update
        )
    display.close(record)
    here = Path.cwd()
    shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
    print(f"record, logs and outputs: {shown}")
    return {RunState.SUCCEEDED: 0, RunState.CANCELLED: 130}.get(record.state, 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"document: {explain_os_error(error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"document: {path} is no text in UTF-8") from None
