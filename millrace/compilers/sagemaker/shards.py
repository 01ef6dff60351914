"""How many shards a task makes, read from its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from millrace.runtime.schemas import CHANNELS

__all__ = ["Shards", "made_shards"]


class Shards(NamedTuple):
    """The shards of all channels together."""

    most: int
    told: str


def made_shards(parameters: Mapping[str, Any]) -> Shards | None:
    """How many there are at most; None where the parameters do not say."""
    given = parameters.get("shards")
    if isinstance(given, int) and not isinstance(given, bool):
        most = given * len(CHANNELS)
        return Shards(most, f"{given} of each channel, {most} at most")
    if isinstance(given, Mapping):
        most = sum(count for count in given.values() if isinstance(count, int))
        return Shards(most, str(most))
    return None
