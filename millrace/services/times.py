"""How long what a backend runs has taken."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["duration", "seconds_between"]


def seconds_between(started: datetime | None, ended: datetime | None) -> float | None:
    """How long something took, or has taken until now; None when it has not begun."""
    if started is None:
        return None
    return max(0.0, ((ended or datetime.now(UTC)) - started).total_seconds())


def duration(seconds: float | None) -> str:
    """Seconds for people; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
