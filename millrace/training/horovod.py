"""The Horovod backend: one rank for each process, found by the HOROVOD_* variables that its launcher sets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.common.exceptions import HorovodInternalError

from millrace.errors import PeerError
from millrace.runtime.launcher.environment import waits
from millrace.runtime.launcher.mpi import SECONDS
from millrace.training.ranks import Ranks

__all__ = ["HorovodRanks", "connect"]

_WIDER = {tf.bfloat16: tf.float32}
"""What Horovod can't add up, and what is added up in its place."""


_FRAME = re.compile(r'^\s*File ".*$', re.MULTILINE)
"""Where in the source an operation comes from: TensorFlow's errors say so."""
_LOST = re.compile(
    r"Horovod has (been shut down|not been initialized)|\bHorovod(Grouped)?(All|Reduce|Broadcast)\w+"
    r"|gloo/[\w/]+\.cc:\d+\]|Connection (closed|reset) by peer"
)
"""What Horovod and Gloo say when a rank is gone."""
_OWN_MISTAKES = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class HorovodRanks(Ranks):
    """One rank a process; Horovod carries the numbers, by NCCL between GPUs and by Gloo or MPI otherwise."""

    def __init__(
        self, names: Sequence[str], index: int, seconds: float, processes: Any = hvd.global_process_set
    ) -> None:
        """`processes` are the process set that trains; `names` and `index` are of its ranks."""
        super().__init__(names, index, seconds)
        self._processes = processes

    def total(self, tensors: Sequence[Any], name: str = "total") -> list[Any]:
        """Sums over all ranks, to the same bits on each: one group for each dtype."""
        given = [tf.convert_to_tensor(tensor) for tensor in tensors]
        sums: list[Any] = [tf.cast(tensor, _WIDER.get(tensor.dtype, tensor.dtype)) for tensor in given]
        for dtype in dict.fromkeys(tensor.dtype for tensor in sums):
            places = [place for place, tensor in enumerate(sums) if tensor.dtype == dtype]
            group = hvd.grouped_allreduce(
                [sums[place] for place in places],
                op=hvd.Sum,
                name=f"millrace.{name}.{dtype.name}",
                ignore_name_scope=True,
                process_set=self._processes,
            )
            for place, tensor in zip(places, group, strict=True):
                sums[place] = tensor
        return [tf.cast(tensor, one.dtype) for tensor, one in zip(sums, given, strict=True)]

    def joined(self, tensor: Any, name: str) -> Any:
        """The tensors of all ranks one after another, along the first axis."""
        return hvd.allgather(tensor, f"millrace.{name}", ignore_name_scope=True, process_set=self._processes)

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Say that another rank ended, when it did; which one and why, the launcher knows.

        Raises:
            PeerError: When another rank is gone or does not answer.
        """
        try:
            yield
        except (tf.errors.OpError, HorovodInternalError) as error:
            if isinstance(error, tf.errors.OpError) and not _is_of_others(error):
                raise
            raise PeerError(
                "another rank ended, or did not come as far in time (peer_seconds): the ranks' logs say why"
            ) from error
        finally:
            self.leave()

    def leave(self) -> None:
        """Mind no more whether the others are there: what still waits for this rank fails at once."""
        hvd.shutdown()


def _is_of_others(error: Exception) -> bool:
    mine = isinstance(error, _OWN_MISTAKES)  # an operation as it can't be taken: Horovod's words say more
    return not mine and _LOST.search(_FRAME.sub("", str(error))) is not None


def connect(seconds: float | None, log: logging.Logger, process_sets: Sequence[hvd.ProcessSet] = ()) -> HorovodRanks:
    """Meet the other ranks, and take one of the host's GPUs; before TensorFlow has done anything else.

    Args:
        seconds: How long to wait for them, now and at each sum; None for what the launcher says, else 600.
        log: Told who is there.
        process_sets: Of some of the ranks, to be known to Horovod; the same on every rank.

    Raises:
        PeerError: When a rank does not come.
    """
    waited = SECONDS if seconds is None else seconds
    limits = {name: limit for name, limit in waits(waited).items() if seconds is not None or name not in os.environ}
    os.environ.update(limits)
    try:
        hvd.init(process_sets=list(process_sets))
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"the ranks did not come together: {error}") from error
    if gpus := tf.config.list_physical_devices("GPU"):
        tf.config.set_visible_devices(gpus[hvd.local_rank() % len(gpus)], "GPU")
    log.info("rank %d of %d: all are there", hvd.rank(), hvd.size())
    return HorovodRanks([f"rank {index}" for index in range(hvd.size())], hvd.rank(), waited)
