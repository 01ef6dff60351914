"""Values of a report as text: durations, sizes, numbers, times, paths and parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pydantic import JsonValue

from millrace.specs.usual import usual_values

__all__ = ["Setting", "duration", "moment", "number", "relative_link", "settings", "shorten"]


class Setting(NamedTuple):
    """One row of a table of parameters."""

    name: str
    """Dotted path."""
    value: str
    default: str | None = None
    """Set when the value differs from it."""


def duration(seconds: float | None) -> str:
    """Seconds for people; empty for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.095 else f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def number(value: float) -> str:
    """Six digits; whole numbers in groups of three."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def moment(time: datetime | None) -> str:
    """A time in UTC; empty for None."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def shorten(text: str, limit: int) -> str:
    """The beginning of a text, with an ellipsis when there is more."""
    return text if len(text) <= limit else f"{text[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def relative_link(path: Path, folder: Path) -> str:
    """An address of `path` that works in a page inside `folder`, also after both were moved together."""
    relative = Path(os.path.relpath(path.absolute(), folder.absolute()))
    return quote(relative.as_posix())


def settings(values: Mapping[str, JsonValue], schema: Mapping[str, Any] | None = None) -> list[Setting]:
    """Nested values as rows of dotted names.

    Args:
        values: Parameters, a configuration or metadata.
        schema: Their JSON schema; with it, rows that differ from its defaults say so.
    """
    defaults = dict(_leaves(usual_values(schema, values))) if schema is not None else {}
    rows = []
    for name, value in _leaves(values):
        default = defaults.get(name, "" if schema is not None else value)
        rows.append(Setting(name, value, None if default == value else default))
    return rows


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, str) and value and value == value.strip()
            yield f"{prefix}{name}", str(value) if plain else json.dumps(value, ensure_ascii=False)
