"""Cron expressions as the backend reads them: six fields, seconds first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from millrace.errors import ConfigError

__all__ = ["six_fields"]

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: Sequence[tuple[str, int, int, tuple[str, ...]]] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def six_fields(expression: str) -> str:
    """A cron expression with seconds.

    The backend takes five fields as well, but as second, minute, hour, day and month: `0 3 * * *` would
    run each hour. Five fields are what `crontab` means by them here, and get second 0.

    Raises:
        ConfigError: Naming the field, the value and what is allowed.
    """
    fields = expression.split()
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0] in _WORDS:
            return fields[0]
        raise ConfigError(f"schedule.cron={expression!r}: allowed words: {', '.join(_WORDS)}")
    if len(fields) not in (5, 6):
        raise ConfigError(
            f"schedule.cron={expression!r} has {len(fields)} fields: give five (minute hour day month weekday) "
            "or six (second first)"
        )
    fields = ["0", *fields] if len(fields) == 5 else fields
    for text, field in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            _check(expression, part, *field)
    return " ".join(fields)


def _check(expression: str, part: str, name: str, low: int, high: int, words: tuple[str, ...]) -> None:
    found = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
    allowed = f"{low}-{high}" + (f" or {words[0]}-{words[-1]}" if words else "")
    if found is None:
        raise ConfigError(f"schedule.cron={expression!r}: {part!r} is no {name}: *, {allowed}, a-b, a,b or */n")
    ends = [_number(text, low, words) for text in found.groups()[:2] if text is not None]
    step = found[3]
    if any(end is None or not low <= end <= high for end in ends) or (step is not None and int(step) < 1):
        raise ConfigError(f"schedule.cron={expression!r}: {part!r} is no {name}: allowed: {allowed}")
    if len(ends) == 2 and (ends[0] or 0) > (ends[1] or 0):
        raise ConfigError(f"schedule.cron={expression!r}: {part!r}: the range of the {name} ends before it begins")


def _number(text: str, low: int, words: tuple[str, ...]) -> int | None:
    if text.isdecimal():
        return int(text)
    return words.index(text.upper()) + low if text.upper() in words else None
