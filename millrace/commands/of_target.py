"""Commands that each target has in a form of its own: the target is chosen by the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from millrace.commands.documents import refuse_foreign
from millrace.config import compose_and_call
from millrace.errors import ConfigError
from millrace.settings import Settings, read_settings

__all__ = ["TARGETS", "Asked", "run"]

TARGETS: Mapping[str, tuple[str, ...]] = {
    "compile": ("kubeflow", "sagemaker"),
    "rehearse": ("kubeflow", "sagemaker"),
    "upload": ("kubeflow", "sagemaker"),
    "submit": ("kubeflow", "sagemaker"),
    "schedule": ("kubeflow", "sagemaker"),
    "status": ("kubeflow", "sagemaker"),
    "rbac": ("kubeflow",),
    "iam": ("sagemaker",),
    "cost": ("sagemaker",),
    "endpoint": ("sagemaker",),
}
"""Which targets have a command."""
_INSTEAD = {"rbac": "iam", "iam": "rbac"}


@dataclass
class Asked:
    """A command as it was typed, over all jobs of a sweep."""

    words: Sequence[str]
    written: set[Path] = field(default_factory=set)
    """Files that earlier jobs of the sweep have written."""


class _Module(Protocol):
    def run(self, settings: Settings, asked: Asked) -> int: ...


def run(command: str, words: Sequence[str]) -> int:
    """Run a command on its words and return the exit code."""
    asked = Asked(words)

    def job(composed: Mapping[str, Any]) -> int:
        settings = read_settings(composed)
        target = _target(command, settings)
        if settings.document is not None:
            refuse_foreign(settings.document, target)
        module = import_module(f"millrace.commands.{target}.{command}")
        return cast("_Module", module).run(settings, asked)

    return compose_and_call(command, words, job)


def _target(command: str, settings: Settings) -> str:
    have = TARGETS[command]
    if settings.target is None:
        if command == "rehearse" and settings.document is not None:
            return "sagemaker" if settings.document.suffix == ".json" else "kubeflow"
        raise ConfigError(f"target: say where the pipeline shall run: {' or '.join(f'target={name}' for name in have)}")
    if settings.target.name not in have:
        hint = f"; there it is `millrace {_INSTEAD[command]}`" if command in _INSTEAD else ""
        raise ConfigError(f"`millrace {command}` is for target={have[0]}, given {settings.target.name}{hint}")
    return settings.target.name
