"""Ranks in groups that hold one model together: to the training, each group is one rank of the data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from millrace.runtime.context import Rank
from millrace.training.ranks import Ranks
from millrace.training.tensor_parallel_group import TensorGroup

__all__ = ["TensorRanks", "connect"]


class TensorRanks(Ranks):
    """This process among all; `index` and `count` are those of the groups, whose ranks take the same data."""

    def __init__(self, everyone: Ranks, group: Ranks, peers: Ranks | None) -> None:
        """Of the same process.

        Args:
            everyone: All ranks.
            group: Those that hold one model together with this one.
            peers: Those of all groups that have the same part of the model; None when there is one group.
        """
        names = [" and ".join(everyone.names[first : first + group.count]) for first in _starts(everyone, group.count)]
        super().__init__(names, everyone.index // group.count, everyone.seconds)
        self.group = TensorGroup(group)
        self.peers = peers
        self._everyone = everyone

    @property
    def first(self) -> bool:
        """Whether what this one writes is kept: one rank of the first group."""
        return self._everyone.first

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """Sums over the groups: over all ranks, each group's number counted once. So all ranks get the same bits."""
        sums = self._everyone.total(tensors, name)
        return [_part(one, self.group.size) for one in sums]

    def joined(self, tensor: Any, name: str) -> Any:
        """The tensors of all groups one after another, along the first axis."""
        return tensor if self.peers is None else self.peers.joined(tensor, name)

    def from_first(self, content: bytes) -> bytes:
        """The first rank's bytes, on every rank."""
        return self._everyone.from_first(content)

    def check_same(self, text: str, what: str) -> None:
        """Compare something that must be the same on all ranks."""
        self._everyone.check_same(text, what)

    def ending_together(self) -> AbstractContextManager[None]:
        """As of all ranks."""
        return self._everyone.ending_together()

    def leave(self) -> None:
        """As of all ranks."""
        self._everyone.leave()


def connect(rank: Rank, tensor: int, seconds: float, log: logging.Logger) -> TensorRanks:
    """Meet the other ranks, in groups of `tensor` neighbours; before TensorFlow has done anything else.

    Args:
        rank: Which one this is.
        tensor: Ranks of a group, which divides the number of ranks.
        seconds: As of `millrace.training.horovod.connect`, as is `log`.

    Raises:
        PeerError: When a rank does not come.
    """
    import horovod.tensorflow as hvd

    from millrace.training import horovod

    groups = rank.size // tensor
    if groups == 1:  # Horovod takes no set of all ranks
        everyone = horovod.connect(seconds, log)
        return TensorRanks(everyone, everyone, None)
    of_groups = [hvd.ProcessSet(range(first, first + tensor)) for first in range(0, rank.size, tensor)]
    of_parts = [hvd.ProcessSet(range(first, rank.size, tensor)) for first in range(tensor)]
    everyone = horovod.connect(seconds, log, [*of_groups, *of_parts])
    group, place = divmod(everyone.index, tensor)

    def ranks(processes: Any, index: int) -> Ranks:
        names = [everyone.names[number] for number in processes.ranks]
        return horovod.HorovodRanks(names, index, seconds, processes)

    return TensorRanks(everyone, ranks(of_groups[group], place), ranks(of_parts[place], group))


def _starts(everyone: Ranks, size: int) -> range:
    return range(0, everyone.count, size)


def _part(total: Any, size: int) -> Any:
    return total // size if total.dtype.is_integer else total / tf.cast(size, total.dtype)
