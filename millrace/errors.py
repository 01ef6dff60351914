"""Every error that Millrace raises on purpose, and the exit code each one means."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

__all__ = [
    "CompositionError",
    "ConfigError",
    "DataError",
    "MillraceError",
    "TaskFailedError",
    "TransientError",
    "UnsupportedError",
    "UserError",
    "did_you_mean",
    "explain_os_error",
    "explain_validation",
    "is_disk_full",
    "report",
]


class MillraceError(Exception):
    """A failure whose message is meant for the person who ran the command."""

    exit_code = 1


class TaskFailedError(MillraceError):
    """A task ran and failed."""


class TransientError(MillraceError):
    """A failure outside the task (network, throttling) that may pass: the task is tried again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class UserError(MillraceError):
    """What was asked for can't be done: a mistake to mend, never a reason to try again."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration value is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """The data given can't be used."""


class UnsupportedError(UserError):
    """A target can't honour a field, or this installation lacks what a command needs."""


class CompositionError(UserError):
    """A pipeline is wired wrongly.

    Attributes:
        task: The task concerned, empty when the pipeline as a whole is.
        location: `file:line` of the author's own code, empty when it is not known.
    """

    def __init__(self, message: str, *, task: str = "", location: str = "") -> None:
        super().__init__(f"{location}: {message}" if location else message)
        self.message = message
        self.task = task
        self.location = location


def report(error: MillraceError) -> int:
    """Print an error's message, below its traceback when MILLRACE_DEBUG is set, and return its exit code."""
    if os.environ.get("MILLRACE_DEBUG"):
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, and what is allowed."""
    names = sorted(allowed)
    if not names:
        return "none is allowed here"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = f"allowed: {', '.join(names)}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def is_disk_full(error: OSError) -> bool:
    """Whether an operation on a file failed for want of space: bytes, inodes or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def explain_os_error(error: OSError) -> str:
    """Which file an operation failed on and why; on a full disk, what to do."""
    where = f"{error.filename}: " if error.filename else ""
    if is_disk_full(error):
        return f"{where}the disk is full: free some space (or inodes, see df -i), then run the same command again"
    return f"{where}{error.strerror or error}"


def explain_validation(error: ValidationError, model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Pydantic's findings as one line each: the field's path, what is wrong and the value given.

    Args:
        error: What pydantic raised.
        model: The model that was validated; with it, unknown keys come with the nearest name.
        prefix: Put before each path.
    """
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in (prefix, *item["loc"]) if part != "")
        if item["type"] == "extra_forbidden":
            hint = f": {did_you_mean(str(item['loc'][-1]), _fields_at(model, item['loc'][:-1]))}" if model else ""
            lines.append(f"{path}: unknown key{hint}")
        elif item["type"] == "missing":
            lines.append(f"{path}: a value is required")
        else:
            lines.append(f"{path}: {item['msg']} (given: {_shorten(item['input'])})")
    return "\n".join(lines)


def _fields_at(annotation: Any, path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are allowed at a path below a model."""
    for part in path:
        annotation = next(_below(annotation, part), None)
    return sorted({name for model in _models(annotation) for name in model.model_fields})


def _below(annotation: Any, part: int | str) -> Iterator[Any]:
    models = list(_models(annotation))
    for model in models:  # the tag of a discriminated union is a part of pydantic's path
        if "kind" in model.model_fields and model.model_fields["kind"].default == part:
            yield model
    for model in models:
        if part in model.model_fields:
            yield model.model_fields[str(part)].annotation
    yield from reversed(get_args(annotation))  # the values of a dict, the items of a list


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
