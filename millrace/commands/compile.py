"""`millrace compile`: a pipeline, or one component, as Kubeflow's own document."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import millrace
from millrace.errors import ConfigError, explain_os_error

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    from millrace.config import compose_and_call, user_components

    written: set[Path] = set()

    def job(composed: Mapping[str, Any]) -> int:
        return _compile(composed, user_components(words), written)

    return compose_and_call("compile", words, job)


def _compile(composed: Mapping[str, Any], added: Mapping[str, str], written: set[Path]) -> int:
    from millrace.compilers.kubeflow.pipeline import compile_pipeline
    from millrace.config import read_settings

    settings = read_settings(composed)
    target = settings.kubeflow()
    spec = settings.compose()
    path = settings.output or Path("build", f"{spec.name}.kubeflow.yaml")
    text = compile_pipeline(spec, target)
    if str(path) == "-":
        print(text, end="")
        return 0
    _write(path, text, written)
    return 0


def _write(path: Path, text: str, written: set[Path]) -> None:
    """Put a document in place, whole or not at all, and over none that this call has written."""
    if path.absolute() in written:
        raise ConfigError(
            f"output: {path} was written by another job of this sweep: give each its own, "
            "'output=build/${hydra:job.num}.yaml' for one"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"output: {explain_os_error(error)}") from error
    written.add(path.absolute())
