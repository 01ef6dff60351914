"""Compiled documents: where they are written, and which target one is for."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from millrace.errors import ConfigError, explain_os_error

__all__ = ["is_printed", "refuse_foreign", "size_of", "write_document"]

_KUBEFLOW = re.compile(r"^(# PIPELINE DEFINITION|pipelineInfo:|deploymentSpec:|schemaVersion:)", re.MULTILINE)


def refuse_foreign(path: Path, target: str) -> None:
    """Refuse a document of the other target, and one for SageMaker that is no JSON; all else is for the checks.

    Raises:
        ConfigError: Naming the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # told by those who read it
    try:
        content = json.loads(text)
    except RecursionError:
        return
    except ValueError as error:
        if target != "sagemaker":
            return
        if _KUBEFLOW.search(text):
            raise ConfigError(f"document: {path} is a pipeline for Kubeflow (YAML): target=kubeflow") from None
        raise ConfigError(f"document: {path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        return
    if target == "sagemaker" and "pipelineInfo" in content:
        raise ConfigError(f"document: {path} is a pipeline for Kubeflow (JSON): target=kubeflow")
    if target == "kubeflow" and "Steps" in content and "pipelineInfo" not in content:
        raise ConfigError(f"document: {path} is a SageMaker definition: target=sagemaker")


def is_printed(path: Path, text: str) -> bool:
    """Print a document where that is asked for, with `-` for a path; whether it was."""
    if str(path) == "-":
        print(text, end="")
        return True
    return False


def size_of(text: str) -> str:
    """Size of a document for people."""
    return f"{len(text.encode()) / 1000:.1f} KB"


def write_document(path: Path, text: str, taken: set[Path]) -> None:
    """Put a document in place, whole or not at all, and over none that this call has written."""
    if path.absolute() in taken:
        raise ConfigError(
            f"output: {path} was written by another job of this sweep: give each a name of its own, "
            "'output=build/${hydra:job.num}.yaml' for one"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ConfigError(f"output: {explain_os_error(error)}") from error
    taken.add(path.absolute())
