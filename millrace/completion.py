"""`millrace --shell-completion`: the script for a shell, and the answers to its questions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from millrace.config import add_import_paths, complete_overrides, user_components, user_pipelines
from millrace.errors import UserError
from millrace.registry import components, pipelines

__all__ = ["complete"]

_SHELLS = ("bash", "zsh", "fish")
_MODES = {"--cfg": ("job", "hydra", "all"), "--info": ("all", "config", "defaults", "defaults-tree", "searchpath")}
_FLAGS = (*_MODES, "--config-dir", "--config-name", "--help", "--multirun", "--package", "--resolve")

_WORDS = {
    "doctor": ("target=local", "target=kubeflow", "target=sagemaker"),
    "exec": ("--task",),
    "serve": ("--host", "--model", "--name", "--options", "--port"),
}
"""What may follow commands without overrides."""


def complete(arguments: Sequence[str], commands: Iterable[str]) -> int:
    """Print the script that makes a shell ask, or what may stand where the cursor is.

    Args:
        arguments: `install=bash`, `uninstall=bash` or `query=bash` (also zsh and fish).
        commands: Names of the commands, completed as the first word.

    Raises:
        UserError: On any other request.
    """
    action, _, shell = (arguments[0] if len(arguments) == 1 else "").partition("=")
    if action not in ("install", "uninstall", "query") or shell not in _SHELLS:
        raise UserError('usage: eval "$(millrace -sc install=bash)"; also uninstall=, and zsh or fish')
    if action != "query":
        print(complete_overrides(arguments[0], []))
        return 0
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    typed = [*line.split(), *([""] if line[-1:].isspace() else [])][1:]
    try:
        found = sorted(_proposals(arguments[0], typed, commands))
    except Exception:
        if os.environ.get("MILLRACE_DEBUG"):
            raise
        return 1  # a shell has nowhere to show a message while somebody types
    if found:
        print(*found, sep="\n")
    return 0


def _proposals(query: str, typed: Sequence[str], commands: Iterable[str]) -> Iterable[str]:
    if len(typed) < 2:
        return _beginning(typed, commands)
    command, rest = typed[0], typed[1:]
    earlier = rest[-2] if len(rest) > 1 else ""
    if earlier == "--config-dir":
        prefix = rest[-1][: rest[-1].rfind("/") + 1]
        return _beginning(rest, [f"{prefix}{item.name}" for item in Path(prefix or ".").iterdir() if item.is_dir()])
    if command in ("components", "describe"):
        add_import_paths(rest)
        names = {*components(user_components(rest[:-1])), *pipelines(), *user_pipelines(rest[:-1])}
        return _beginning(rest, {"--config-dir", *(names if command == "describe" else ())})
    if command == "lineage":
        return _beginning(rest, _lineage(rest))
    if command in _WORDS:
        return _beginning(rest, _WORDS[command])
    if earlier in _MODES:
        return _beginning(rest, _MODES[earlier])
    if rest[-1].startswith("-"):
        return _beginning(rest, _FLAGS)
    if rest[-1].startswith("component="):
        return _beginning(rest, [f"component={name}" for name in components(user_components(rest[:-1]))])
    proposed = complete_overrides(query, rest, command).split()
    return [item for item in proposed if not item.startswith(("defaults=", "settings=", "hydra."))]


def _lineage(rest: Sequence[str]) -> list[str]:
    """Options and runs; after a run its metrics."""
    from millrace.runners.lineage import ROOT, open_run

    runs = sorted(path.parent.name for path in (ROOT / "runs").glob("*/run.json"))
    names = [word for word in rest[:-1] if not word.startswith("-")]
    if not names:
        return ["--json", "--root", "latest", *runs]
    tasks = open_run(ROOT, names[0]).tasks.values() if len(names) == 1 else ()
    return ["--json", *(f"{task.name}.{metric}" for task in tasks for metric in task.metrics)]


def _beginning(typed: Sequence[str], allowed: Iterable[str]) -> list[str]:
    return [item for item in allowed if item.startswith(typed[-1] if typed else "")]
