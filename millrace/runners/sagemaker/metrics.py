"""Metrics that the service reads from a job's log, by the regexes of its request."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from millrace.runners.sagemaker.staging import ServiceError

__all__ = ["LogMetrics", "Observed"]


class Observed(NamedTuple):
    """A value, and when it was printed."""

    value: float
    at: datetime


class LogMetrics:
    """Every value of each metric, in the order of the log; threads of several hosts may tell lines."""

    def __init__(self, definitions: Iterable[Mapping[str, str]]) -> None:
        self._lock = threading.Lock()
        self.values: dict[str, list[Observed]] = {}
        self._patterns = [(each["Name"], _compiled(each["Name"], each["Regex"])) for each in definitions]

    def line(self, text: str) -> list[tuple[str, float]]:
        """Names and values that one line has."""
        found = []
        for name, pattern in self._patterns:
            for match in pattern.finditer(text):
                try:
                    found.append((name, float(match[1])))
                except (TypeError, ValueError):
                    continue  # the service passes over what is no number
        if found:
            with self._lock:
                for name, value in found:
                    self.values.setdefault(name, []).append(Observed(value, datetime.now(UTC)))
        return found

    def final(self) -> dict[str, dict[str, Any]]:
        """The last value of each metric, as FinalMetricDataList has it, by name."""
        with self._lock:
            return {
                name: {"MetricName": name, "Value": seen[-1].value, "Timestamp": seen[-1].at.isoformat()}
                for name, seen in self.values.items()
            }


def _compiled(name: str, regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise ServiceError(f"ValidationException: the Regex {regex!r} of the metric {name!r}: {error}") from None
    if not pattern.groups:
        raise ServiceError(
            f"ValidationException: the Regex {regex!r} of the metric {name!r} has no group for its value"
        )
    return pattern
