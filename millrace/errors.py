"""Every error that Millrace raises on purpose, and the exit code each one means."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

__all__ = [
    "CompositionError",
    "ConfigError",
    "DataError",
    "MillraceError",
    "PeerError",
    "TaskFailedError",
    "TransientError",
    "UnsupportedError",
    "UserError",
    "called",
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


class PeerError(TransientError):
    """Another rank ended, or did not answer: what happened to that one is the cause."""


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


_DEEPEST = 6
_MEMBER = re.compile(r"(literal|dict|list|tuple)\[|constrained-(int|float|str)$")
"""What pydantic calls the members of a union that are no models."""
_MOST_NAMES = 100
_NEAREST = 5
_MOST_PLACES = 3
_SURELY = 0.8
"""Likeness from which a name is but misspelt."""
_MOST_CHARACTERS = 200


def did_you_mean(name: str, allowed: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """The end of a sentence about an unknown name: the nearest one, and what is allowed, of many the nearest.

    Args:
        name: What was given.
        allowed: Names that could have been given in its place.
        elsewhere: Whole names of what is called so in other places; they are nearer than other names here.
    """
    names, places = sorted(allowed), list(elsewhere)[:_MOST_PLACES]
    if places:
        listed = f" here are allowed: {', '.join(names)}" if 0 < len(names) <= _MOST_NAMES else ""
        return f"did you mean {' or '.join(map(repr, places))}?{listed}"
    if not names:
        return "none is allowed here"
    close = difflib.get_close_matches(name[:_MOST_CHARACTERS], names, n=_NEAREST, cutoff=0.5)
    if len(names) <= _MOST_NAMES:
        listed = f"allowed: {', '.join(names)}"
    else:
        near = f"the nearest are {', '.join(close)}" if len(close) > 1 else f"{', '.join(names[:_NEAREST])} for some"
        listed = f"{len(names)} are allowed, {near}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def is_disk_full(error: Exception) -> bool:
    """Whether an operation on a file failed for want of space: bytes, inodes or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in full
    return any(f"(os error {number})" in str(error) for number in full)  # polars has words only


def explain_os_error(error: Exception) -> str:
    """Which file an operation failed on and why; on a full disk, what to do."""
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    if is_disk_full(error):
        return f"{where}the disk is full: free some space (or inodes, see df -i), then run the same command again"
    return f"{where}{getattr(error, 'strerror', None) or error}"


def explain_validation(error: ValidationError, model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Pydantic's findings as one line each: the field's path, what is wrong and the value given.

    Args:
        error: What pydantic raised.
        model: The model that was validated; with it, unknown keys come with the nearest name.
        prefix: Put before each path.
    """
    lines = []
    for item in error.errors(include_url=False):
        written = list(_as_written(model, item["loc"]))
        path = ".".join(part for part in (prefix, *written) if part != "")
        context = item.get("ctx", {})
        if item["type"] == "extra_forbidden":
            hint = f": {_meant(model, item['loc'], written, prefix)}" if model else ""
            kind = [part for part in item["loc"][-2:-1] if part not in written]
            lines.append(f"{path}: unknown key{f' for kind={kind[0]}' if kind else ''}{hint}")
        elif item["type"] == "missing":
            lines.append(f"{path}: a value is required")
        elif item["type"] == "union_tag_invalid":
            tags = re.findall("'(.+?)'", context["expected_tags"])
            key = context["discriminator"].strip("'")
            lines.append(f"{path}.{key}: unknown {key} {context['tag']!r}: {did_you_mean(context['tag'], tags)}")
        elif item["type"] == "union_tag_not_found":
            key = context["discriminator"].strip("'")
            tags = sorted(str(_tag(found)) for found in _models(_annotation_at(model, item["loc"])))
            lines.append(f"{path}.{key}: a value is required{': one of ' if tags else ''}{', '.join(tags)}")
        elif item["type"] in ("tuple_type", "list_type") and isinstance(item["input"], str):
            lines.append(f"{path}: a list is needed: {path}=[{item['input'][:80]}]")
        elif model and item["type"].startswith("model_") and isinstance(item["input"], str | int | float):
            lines.append(f"{path}: {_of_keys(model, item['loc'], path, item['input'])}")
        elif item["type"] == "value_error" and isinstance(item["input"], Mapping):  # several fields together
            lines.append(f"{path}: {context['error']}".removeprefix(": "))
        else:
            told = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {told} (given: {_shorten(item['input'])})")
    return "\n".join(lines)


def _meant(model: type[BaseModel], path: tuple[int | str, ...], written: list[str], prefix: str) -> str:
    """What may have been meant by an unknown key: one here, or one of that name in another place, the nearest first."""
    name, here = str(path[-1]), _fields_at(model, path[:-1])
    close = difflib.get_close_matches(name, here, n=1, cutoff=_SURELY)
    places = called(name, model)
    if close or ".".join(written) in places:  # it is but misspelt, or of another kind
        return did_you_mean(name, here)
    shared = [sum(1 for _ in takewhile(bool, map(str.__eq__, place.split("."), written))) for place in places]
    nearest = [place for place, number in zip(places, shared, strict=True) if number == max(shared)]
    return did_you_mean(name, here, (f"{prefix}.{place}".removeprefix(".") for place in nearest))


def _of_keys(model: type[BaseModel], path: tuple[int | str, ...], written: str, given: object) -> str:
    """What to write instead of one value for a group of keys."""
    fields, tags = _fields_at(model, path), {_tag(found) for found in _models(_annotation_at(model, path))}
    if given in tags:
        return f"it has keys of its own: did you mean {written}.kind={given}?"
    if len(fields) == 1:
        return f"it has a key of its own: did you mean {written}.{fields[0]}={given}?"
    return f"it has keys of its own, {written}.KEY=VALUE (given: {_shorten(given)}); allowed: {', '.join(fields)}"


def called(name: str, model: type[BaseModel]) -> list[str]:
    """Dotted names of all fields below a model that are called so, the shortest first."""
    found = {path for path in _names_below(model, _DEEPEST) if path.rpartition(".")[2] == name}
    return sorted(found, key=lambda path: (path.count("."), path))


def _names_below(model: type[BaseModel], deepest: int) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if deepest:
            for inner in _models(field.annotation):
                yield from (f"{name}.{below}" for below in _names_below(inner, deepest - 1))


def _as_written(model: type[BaseModel] | None, path: tuple[int | str, ...]) -> Iterator[str]:
    """The parts of pydantic's path that a person writes: those for the variants of unions are left out."""
    annotation: Any = model
    for part in path:
        models = list(_models(annotation))
        members = {*map(_tag, models), *(found.__name__ for found in models)}
        if part not in members and not (isinstance(part, str) and _MEMBER.match(part)):
            yield str(part)
        annotation = next(_below(annotation, part), None)


def _fields_at(annotation: Any, path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are allowed at a path below a model."""
    return sorted({name for model in _models(_annotation_at(annotation, path)) for name in model.model_fields})


def _annotation_at(annotation: Any, path: tuple[int | str, ...]) -> Any:
    for part in path:
        annotation = next(_below(annotation, part), None)
    return annotation


def _below(annotation: Any, part: int | str) -> Iterator[Any]:
    models = list(_models(annotation))
    for model in models:  # the tag of a discriminated union is a part of pydantic's path
        if _tag(model) == part:
            yield model
    for model in models:
        if part in model.model_fields:
            yield model.model_fields[str(part)].annotation
    yield from reversed(get_args(annotation))  # the values of a dict, the items of a list


def _tag(model: type[BaseModel]) -> object:
    """What tells a model from the others of its union: its kind, or a name that is fixed."""
    fields = [model.model_fields[name] for name in ("kind", "name") if name in model.model_fields]
    return next((field.default for field in fields if get_origin(field.annotation) is Literal), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
