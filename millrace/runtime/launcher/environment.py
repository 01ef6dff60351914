"""What a rank is told by its environment: who it is among all, and how they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from millrace.errors import ConfigError
from millrace.runtime.context import Rank
from millrace.runtime.launcher.messages import Member, first_rank

__all__ = ["PIN", "ranks_of", "read_rank", "variables", "waits"]

PIN = "MILLRACE_PIN_RANKS"
"""Environment variable: 1 gives each rank processor cores of its own instead of a share of all."""


def ranks_of(members: Sequence[Member], host: int) -> list[Rank]:
    """The ranks of a host."""
    size = sum(member.ranks for member in members)
    first = first_rank(members, host)
    [local] = [member.ranks for member in members if member.host == host]
    return [Rank(index=first + index, size=size, local_index=index, local_size=local) for index in range(local)]


def variables(
    rank: Rank, members: Sequence[Member], host: int, name: str, meeting: tuple[str, int, str], seconds: float
) -> dict[str, str]:
    """Horovod's own variables.

    Args:
        rank: For which rank.
        members: The hosts that take part.
        host: The rank's host.
        name: Its name.
        meeting: Address and port of the store, and the network card that leads to it.
        seconds: How long ranks wait for each other.
    """
    across = [member.host for member in members if member.ranks > rank.local_index]
    address, port, card = meeting
    return {
        "HOROVOD_RANK": str(rank.index),
        "HOROVOD_SIZE": str(rank.size),
        "HOROVOD_LOCAL_RANK": str(rank.local_index),
        "HOROVOD_LOCAL_SIZE": str(rank.local_size),
        "HOROVOD_CROSS_RANK": str(across.index(host)),
        "HOROVOD_CROSS_SIZE": str(len(across)),
        "HOROVOD_HOSTNAME": name,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": card,
        **waits(seconds),
    }


def waits(seconds: float) -> dict[str, str]:
    """Those of Horovod's variables that say how long ranks wait for each other."""
    limit = max(1, round(seconds))
    return {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(limit),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, min(60, limit // 2))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(limit),
    }


def read_rank(environment: Mapping[str, str] | None = None) -> Rank:
    """Which rank this process is.

    Raises:
        ConfigError: When nobody has told it.
    """
    found = os.environ if environment is None else environment
    names = {"index": "RANK", "size": "SIZE", "local_index": "LOCAL_RANK", "local_size": "LOCAL_SIZE"}
    try:
        return Rank.model_validate({field: int(found[f"HOROVOD_{name}"]) for field, name in names.items()})
    except (KeyError, ValueError) as error:
        raise ConfigError(f"millrace exec --rank is for ranks that a task starts itself: {error}") from error
