"""Deal objects into shards of equal number and nearly equal bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["deal"]

_CAREFUL_ROUNDS = 50_000


def deal(sizes: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """The shard of each object.

    Objects are dealt in rounds of one object a shard, the largest objects first, so numbers differ by 1
    at most. In the first rounds the largest object goes to the lightest shard (Graham's LPT rule, a round
    at a time); in the rounds after `_CAREFUL_ROUNDS`, where sizes have become alike, the order is that of
    the last careful round and turns round each time, which needs no loop in Python.

    Args:
        sizes: Bytes of each object, int64 of shape `[objects]`; of equal sizes the first is dealt first.
        shards: Number of shards, at most the number of objects.

    Returns:
        Shard numbers, int64 of shape `[objects]`.
    """
    largest_first = np.argsort(-sizes, kind="stable")
    rounds, rest = divmod(len(sizes), shards)
    careful = min(rounds, _CAREFUL_ROUNDS)
    seats = np.empty(len(sizes), dtype=np.int64)
    load = np.zeros(shards, dtype=np.int64)
    lightest = np.arange(shards)
    for begin in range(0, careful * shards, shards):
        lightest = np.argsort(load, kind="stable")
        seats[begin : begin + shards] = lightest
        load[lightest] += sizes[largest_first[begin : begin + shards]]
    quick = rounds - careful
    if quick:
        lightest = np.argsort(load, kind="stable")
        block = np.tile(np.concatenate((lightest, lightest[::-1])), (quick + 1) // 2)[: quick * shards]
        begin, end = careful * shards, rounds * shards
        seats[begin:end] = block
        load += np.bincount(block, weights=sizes[largest_first[begin:end]], minlength=shards).astype(np.int64)
    seats[rounds * shards :] = np.argsort(load, kind="stable")[:rest]
    owners = np.empty_like(seats)
    owners[largest_first] = seats
    return owners
