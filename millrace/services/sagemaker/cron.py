"""When a schedule starts runs, in EventBridge's words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from millrace.errors import ConfigError
from millrace.targets.runs import Schedule

__all__ = ["cron_expression", "schedule_expression"]

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_Field = tuple[str, int, int, tuple[str, ...]]
_FIVE: Sequence[_Field] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_SIX: Sequence[_Field] = (
    *_FIVE[:4],
    ("day of the week", 1, 7, _DAYS),
    ("year", 1970, 2199, ()),
)
_WORDS = {
    "@yearly": "0 0 1 1 ? *",
    "@annually": "0 0 1 1 ? *",
    "@monthly": "0 0 1 * ? *",
    "@weekly": "0 0 ? * 1 *",
    "@daily": "0 0 * * ? *",
    "@midnight": "0 0 * * ? *",
    "@hourly": "0 * * * ? *",
}


def schedule_expression(schedule: Schedule) -> str:
    """`cron(...)` or `rate(...)`.

    Raises:
        ConfigError: When neither or both are given, or the value is none.
    """
    if (schedule.cron is None) == (schedule.interval_seconds is None):
        raise ConfigError("give either schedule.cron='0 3 * * *' or schedule.interval_seconds=3600")
    if schedule.cron is not None:
        return f"cron({cron_expression(schedule.cron)})"
    minutes, rest = divmod(schedule.interval_seconds or 0, 60)
    if rest:
        raise ConfigError(
            f"schedule.interval_seconds={schedule.interval_seconds}: EventBridge knows whole minutes: give "
            f"{minutes * 60} or {(minutes + 1) * 60}"
        )
    for unit, size in (("day", 1440), ("hour", 60), ("minute", 1)):
        if minutes % size == 0:
            count = minutes // size
            return f"rate({count} {unit}{'' if count == 1 else 's'})"
    raise AssertionError(minutes)


def cron_expression(expression: str) -> str:
    """EventBridge's six fields, the year last, from them or from the five of `crontab`.

    In EventBridge, Sunday is day 1 of the week, and of the two days one is always `?`.

    Raises:
        ConfigError: Naming the field, the value and what is allowed.
    """
    fields = expression.split()
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0] in _WORDS:
            return _WORDS[fields[0]]
        raise ConfigError(f"schedule.cron={expression!r}: allowed words: {', '.join(_WORDS)}")
    if len(fields) == 5:
        return _from_five(expression, fields)
    if len(fields) != 6:
        raise ConfigError(
            f"schedule.cron={expression!r} has {len(fields)} fields: give five (minute hour day month weekday) "
            "or EventBridge's six (the year last)"
        )
    for text, field in zip(fields, _SIX, strict=True):
        for part in text.split(","):
            _check(expression, part, field, more=field[0].startswith("day"))
    if (fields[2] == "?") == (fields[4] == "?"):
        raise ConfigError(
            f"schedule.cron={expression!r}: of the day of the month and the day of the week one must be `?`, not both"
        )
    return " ".join(fields)


def _from_five(expression: str, fields: list[str]) -> str:
    for text, field in zip(fields, _FIVE, strict=True):
        for part in text.split(","):
            _check(expression, part, field, more=False)
    minute, hour, day, month, weekday = fields
    if day != "*" and weekday != "*":
        raise ConfigError(
            f"schedule.cron={expression!r}: EventBridge takes a day of the month or a day of the week, not both: "
            "make two schedules"
        )
    days = ("*", "?") if weekday == "*" else ("?", _weekdays(expression, weekday))
    if day != "*":
        days = (_stepped(day, 1), "?")
    return f"{_stepped(minute, 0)} {_stepped(hour, 0)} {days[0]} {_stepped(month, 1)} {days[1]} *"


def _stepped(text: str, low: int) -> str:
    """EventBridge counts steps from a number."""
    return re.sub(r"\*/", f"{low}/", text)


def _weekdays(expression: str, text: str) -> str:
    """Days of the week by their names, which mean the same everywhere; numbers do not."""
    chosen: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("0", "", "6") if span == "*" else span.partition("-")
        low = _number(first, _DAYS, 0)
        high = _number(last, _DAYS, 0) if last else 6 if step else low
        if high < low:
            raise ConfigError(f"schedule.cron={expression!r}: {part!r}: the range of the day ends before it begins")
        chosen |= {day % 7 for day in range(low, high + 1, int(step or 1))}
    return ",".join(_DAYS[day] for day in sorted(chosen))


def _check(expression: str, part: str, field: _Field, more: bool) -> None:
    name, low, high, words = field
    if more and re.fullmatch(r"\?|L|LW|\d{1,2}W|[1-7]L|[1-7]#[1-5]", part):
        return
    found = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
    allowed = f"{low}-{high}" + (f" or {words[0]}-{words[-1]}" if words else "")
    if found is None:
        raise ConfigError(f"schedule.cron={expression!r}: {part!r} is no {name}: *, {allowed}, a-b, a,b or */n")
    known = [text for text in found.groups()[:2] if text is not None]
    good = all(text.isdecimal() or text.upper() in words for text in known)
    ends = [_number(text, words, low) for text in known] if good else []
    if not good or any(not low <= end <= high for end in ends) or (found[3] is not None and int(found[3]) < 1):
        raise ConfigError(f"schedule.cron={expression!r}: {part!r} is no {name}: allowed: {allowed}")
    if len(ends) == 2 and ends[0] > ends[1]:
        raise ConfigError(f"schedule.cron={expression!r}: {part!r}: the range of the {name} ends before it begins")


def _number(text: str, words: Sequence[str], low: int) -> int:
    return int(text) if text.isdecimal() else words.index(text.upper()) + low
