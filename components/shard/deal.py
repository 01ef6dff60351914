"""Deal objects into shards: of equal number and nearly equal bytes, or in blocks of their order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut", "deal"]

_CAREFUL_ROUNDS = 50_000
_LARGE = 10
"""Times the median."""

Numbers = NDArray[np.int64]


def deal(sizes: Numbers, shards: int) -> NDArray[np.int32]:
    """The shard of each object, so that numbers differ by 1 at most and bytes as little as that allows.

    Objects are dealt in rounds of one object a shard, the largest of a round to the lightest shard (Graham's LPT rule,
    a round at a time). The first round has the largest objects of all. Of the rest, by size, every second object and
    all large ones become rounds with objects of all sizes, the smallest of which make up for a very large object; then
    every second one of what is left, and so on, so that the last rounds have objects that are alike and even out the
    rest.

    More than `_CAREFUL_ROUNDS` rounds are dealt without a loop in Python first, turning round each time.

    Args:
        sizes: Bytes of each object, int64 of shape `[objects]`; of equal sizes the first is dealt first.
        shards: Number of shards, at most the number of objects.

    Returns:
        Shard numbers, int32 of shape `[objects]`.
    """
    largest_first = np.argsort(-sizes, kind="stable")
    rounds, rest = divmod(len(sizes), shards)
    blocks = largest_first[: rounds * shards].reshape(rounds, shards)
    owners = np.empty(len(sizes), dtype=np.int32)
    load = np.zeros(shards, dtype=np.int64)
    careful = np.unique(np.linspace(0, rounds - 1, min(rounds, _CAREFUL_ROUNDS)).astype(np.int64))
    quick = np.delete(np.arange(rounds), careful)
    if len(quick):
        turning = np.arange(shards, dtype=np.int32)
        for turn, seats in enumerate((turning, turning[::-1])):
            mine = blocks[quick[turn::2]]
            owners[mine] = seats
            load[seats] += sizes[mine].sum(axis=0)
    median = sizes[largest_first[len(sizes) // 2]]
    large = int((sizes[blocks[careful, 0]] > _LARGE * median).sum())
    for some in _rounds(blocks, careful, large):
        of_each = sizes[some]
        for members, bytes_of in zip(some, of_each, strict=True):
            lightest = np.argsort(load, kind="stable")
            owners[members] = lightest
            load[lightest] += bytes_of
    owners[largest_first[rounds * shards :]] = np.argsort(load, kind="stable")[:rest]
    return owners


def _rounds(blocks: Numbers, left: Numbers, large: int) -> Iterator[Numbers]:
    """Objects of rounds, `[rounds, shards]`, the largest of each round first.

    Args:
        blocks: All objects by size, the largest first, as rounds of those that are alike.
        left: Which of these rounds to deal.
        large: How many of them have large objects, which are dealt early, while there is enough to make up for them.
    """
    yield blocks[left[:1]]
    left = left[1:]
    early = max(0, min(large - 1, len(left) // 2))
    while len(left) > 2:
        later = np.arange(early + 1, len(left), 2)
        mixed, left, early = np.delete(left, later), left[later], 0
        yield blocks[mixed].reshape(blocks.shape[1], len(mixed)).T
    yield blocks[left]


def cut(sizes: Numbers, shards: int) -> NDArray[np.int32]:
    """The shard of each object when each shard takes a block of their order, of nearly equal bytes.

    Args:
        sizes: Bytes of each object, int64 of shape `[objects]`.
        shards: Number of shards, at most the number of objects.

    Returns:
        Shard numbers, int32 of shape `[objects]`, ascending; each has an object at least.
    """
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    wanted = np.asarray([total * number // shards for number in range(1, shards)], dtype=np.int64)
    before = np.searchsorted(ends, wanted, side="left")
    nearer = wanted - np.where(before > 0, ends[before - 1], 0) > ends[before] - wanted
    numbers = np.arange(1, shards)
    begins = np.maximum.accumulate(before + nearer - numbers) + numbers
    begins = np.clip(begins, numbers, len(sizes) - shards + numbers)
    return np.repeat(np.arange(shards, dtype=np.int32), np.diff(np.concatenate(([0], begins, [len(sizes)]))))
