"""The ranks that hold one model together, and what they send each other.

The forms of these exchanges and their gradients are those of Shoeybi et al. 2019 (Megatron-LM). Horovod registers
gradients of its own, scaled for data parallelism; none of them is used here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import tensorflow as tf

from millrace.training.ranks import Ranks

__all__ = ["Shard", "TensorGroup"]


class Shard(NamedTuple):
    """The part of a variable that one rank holds."""

    axis: int
    first: int
    end: int
    size: int
    """Of the whole variable along this axis."""

    def of(self, whole: Any) -> Any:
        """This part of the whole array or tensor."""
        return whole[(slice(None),) * self.axis + (slice(self.first, self.end),)]

    def whole_shape(self, own: Any) -> tuple[int, ...]:
        """The whole variable's shape, from that of the part."""
        return (*own[: self.axis], self.size, *own[self.axis + 1 :])


class TensorGroup:
    """The ranks that hold one model together: all see the same batch, each has a part of the large weights.

    Every rank of the group must call the same methods in the same order.
    """

    def __init__(self, ranks: Ranks) -> None:
        """`ranks` are those of the group alone."""
        self.size = ranks.count
        self.index = ranks.index
        self._ranks = ranks
        self._names: Counter[str] = Counter()

    def shard(self, axis: int, size: int) -> Shard:
        """This rank's part of `size` places along an axis; parts differ by one at most."""
        return Shard(axis, self.index * size // self.size, (self.index + 1) * size // self.size, size)

    def total(self, tensor: Any, name: str) -> Any:
        """The sum over the group; without a gradient."""
        (summed,) = self._ranks.total([tensor], self._unique(name))
        return tf.ensure_shape(summed, tensor.shape)

    def together(self, tensor: Any, name: str) -> Any:
        """The group's tensors one behind the other along the first axis; without a gradient."""
        narrow = tensor.dtype == tf.bfloat16  # which Horovod does not know
        joined = self._ranks.joined(tf.cast(tensor, tf.float32) if narrow else tensor, self._unique(name))
        return tf.ensure_shape(tf.cast(joined, tensor.dtype), [None, *tensor.shape[1:]])

    def enter(self, tensor: Any, name: str) -> Any:
        """What all have goes into each one's part of a layer: unchanged; gradients are added up."""

        def entering(x: Any) -> Any:
            return tf.identity(x), lambda gradient: self.total(gradient, f"{name}.enter")

        return tf.custom_gradient(entering)(tensor)

    def leave(self, tensor: Any, name: str) -> Any:
        """Each one's share of a sum becomes the sum; its gradient is that of each share."""

        def leaving(x: Any) -> Any:
            return self.total(x, f"{name}.leave"), lambda gradient: gradient

        return tf.custom_gradient(leaving)(tensor)

    def gather(self, tensor: Any, shard: Shard, name: str) -> Any:
        """Each one's part of the last axis becomes the whole of it; its gradient is the part of the gradient."""

        def gathering(x: Any) -> Any:
            last = len(x.shape) - 1
            joined = self.together(tf.transpose(x, [last, *range(last)]), f"{name}.gather")
            whole = tf.transpose(joined, [*range(1, last + 1), 0])
            return tf.ensure_shape(whole, [*x.shape[:-1], shard.size]), lambda g: g[..., shard.first : shard.end]

        return tf.custom_gradient(gathering)(tensor)

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return f"tensor.{name}.{self._names[name]}"
