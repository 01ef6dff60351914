"""What the hosts of a task tell the first one, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from millrace.specs import Frozen

__all__ = ["Cause", "Limits", "Member", "Order", "Report", "first_rank"]


class Limits(NamedTuple):
    """How many ranks a task may go on with when some are lost."""

    fewest: int
    most: int | None
    restarts: int
    """How often ranks are started anew after a loss."""
    wait_seconds: float
    """How long hosts that are not there are waited for while there are enough without them."""


class Cause(Frozen):
    """Why the ranks of a host did not come to a good end."""

    host: int
    kind: Literal["user", "transient", "disk_full", "error", "stopped"]
    message: str
    rank: int | None = None
    """None where it is the host itself."""
    follows: bool = False
    """Most likely only because another rank had ended before."""
    lost: bool = False
    """Gone without a word of its own, so that going on without it may help."""


class Report(Frozen):
    """How a host is."""

    host: int = Field(ge=0)
    generation: int = Field(default=0, ge=0)
    """Which of the orders to run it has followed last."""
    state: Literal["idle", "running", "failed", "done"] = "idle"
    """idle: no rank is there; failed: a rank has ended, and not well; done: all have ended well."""
    cause: Cause | None = None
    ended: tuple[int, ...] = ()
    """Its ranks that have ended, or said why they will."""
    leaving: bool = False
    """It was told to stop, and will not be there for long."""


class Member(Frozen):
    """A host that takes part."""

    host: int
    ranks: int


class Order(Frozen):
    """What a host is to do."""

    action: Literal["wait", "run", "stop", "end"]
    generation: int = 0
    members: tuple[Member, ...] = ()
    polite: bool = False
    """Ranks are all well and shall stop in step, with a checkpoint."""
    missing: tuple[str, ...] = ()
    """Who is waited for."""
    cause: Cause | None = None
    """Why it ends; None when all is well."""


def first_rank(members: Sequence[Member], host: int) -> int:
    """Index of the first rank of a host among all."""
    before = 0
    for member in members:
        if member.host == host:
            return before
        before += member.ranks
    raise ValueError(f"host {host} is not among {members}")
