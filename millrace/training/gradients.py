"""Gradients of several ranks, added up in one place for training and for people's own scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import tensorflow as tf

from millrace.training.ranks import Ranks

__all__ = ["AddUp", "added_up", "shared"]


class AddUp(Protocol):
    """What `added_up` is."""

    def __call__(
        self, gradients: Sequence[Any], others: Sequence[Any], ranks: Ranks, name: str, *, half: bool = False
    ) -> tuple[list[Any], list[Any]]: ...


def shared(gradients: Sequence[Any], share: Any) -> list[Any]:
    """What a rank adds to the sum: its gradients, weighted by its share of the records.

    Args:
        gradients: Tensors, IndexedSlices (of embeddings, which stay sparse), or None.
        share: Between 0 and 1; with 0 it does not matter whether the gradients are numbers.
    """
    return [gradient if gradient is None else _mapped(gradient, lambda x: _times(x, share)) for gradient in gradients]


def added_up(
    gradients: Sequence[Any], others: Sequence[Any], ranks: Ranks, name: str, *, half: bool = False
) -> tuple[list[Any], list[Any]]:
    """Gradients and other numbers over all ranks.

    Args:
        gradients: This rank's, as of `shared`; None and sparse ones are so on every rank or on none.
        others: Tensors that travel in the same message as the gradients.
        ranks: All of which call this.
        name: The same on every rank, another one for each use in a graph.
        half: Send float32 gradients as float16.

    Returns:
        The sums of both, in the places and types of what was given.
    """
    sent = [gradient if gradient is None else _mapped(gradient, lambda x: _sent(x, half)) for gradient in gradients]
    dense = [gradient for gradient in sent if gradient is not None and not isinstance(gradient, tf.IndexedSlices)]
    arrived = iter(ranks.agree([*dense, *others], name))
    sums = list(_received(gradients, sent, arrived, ranks, name))
    return sums, list(arrived)


def _received(
    gradients: Sequence[Any], sent: Sequence[Any], arrived: Iterator[Any], ranks: Ranks, name: str
) -> Iterator[Any]:
    for place, (gradient, mine) in enumerate(zip(gradients, sent, strict=True)):
        if gradient is None:
            yield None
        elif isinstance(mine, tf.IndexedSlices):
            values = ranks.joined(mine.values, f"{name}.{place}.values")
            indices = ranks.joined(mine.indices, f"{name}.{place}.indices")
            yield tf.IndexedSlices(tf.cast(values, gradient.dtype), indices, gradient.dense_shape)
        else:
            yield tf.cast(next(arrived), gradient.dtype)


def _mapped(gradient: Any, change: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(change(gradient.values), gradient.indices, gradient.dense_shape)
    return change(tf.convert_to_tensor(gradient))


def _times(values: Any, share: Any) -> Any:
    exact = tf.cast(values, tf.float32) if values.dtype.size < 4 else values
    return tf.cast(tf.math.multiply_no_nan(exact, tf.cast(share, exact.dtype)), values.dtype)


def _sent(values: Any, half: bool) -> Any:
    """As it travels: sums of bfloat16 would lose more than its own rounding, and Horovod knows none."""
    if half and values.dtype == tf.float32:
        return tf.cast(values, tf.float16)
    return tf.cast(values, tf.float32) if values.dtype == tf.bfloat16 else values
