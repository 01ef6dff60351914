"""Layers of which each rank of a group holds a part; together they do what the Keras layer does."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from millrace.training.tensor_parallel_group import Shard, TensorGroup

__all__ = ["ColumnDense", "RowDense", "SplitDropout", "SplitEmbedding", "predicted_right", "split_crossentropy"]


class ColumnDense(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
    """A Dense layer split by its outputs.

    Gathered, it gives what Dense gives. Otherwise each rank goes on with its part of the outputs [..., units / ranks].
    """

    def __init__(self, dense: Any, group: TensorGroup, *, gathered: bool, activation: Any) -> None:
        super().__init__(name=dense.name, dtype=dense.dtype_policy, trainable=dense.trainable)
        self.supports_masking = True
        self.group = group
        self.shard = group.shard(1, dense.units)
        self.gathered = gathered
        self.use_bias = dense.use_bias
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        """Add this rank's columns."""
        own = self.shard.end - self.shard.first
        self.kernel = _split(
            self.add_weight(shape=(input_shape[-1], own), name="kernel", initializer="zeros"), self.shard
        )
        self.bias = None
        if self.use_bias:
            bias = self.add_weight(shape=(own,), name="bias", initializer="zeros")
            self.bias = _split(bias, self.shard._replace(axis=0))

    def call(self, inputs: Any) -> Any:
        """[..., inputs] to [..., units], or this rank's part of them."""
        y = keras.ops.matmul(self.group.enter(inputs, self.name), self.kernel)
        y = y if self.bias is None else keras.ops.add(y, self.bias)
        return self.activation(self.group.gather(y, self.shard, self.name) if self.gathered else y)


class RowDense(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
    """A Dense layer split by its inputs: of those each rank has a part, or takes it itself."""

    def __init__(self, dense: Any, group: TensorGroup, *, taken: bool) -> None:
        """`taken`: the inputs come whole, and each rank takes its part of them."""
        super().__init__(name=dense.name, dtype=dense.dtype_policy, trainable=dense.trainable)
        self.supports_masking = True
        self.group = group
        self.shard = group.shard(0, dense.kernel.shape[0])
        self.taken = taken
        self.units = dense.units
        self.use_bias = dense.use_bias
        self.activation = dense.activation

    def build(self, input_shape: Any) -> None:
        """Add this rank's rows, and the bias, which all have."""
        own = self.shard.end - self.shard.first
        self.kernel = _split(self.add_weight(shape=(own, self.units), name="kernel", initializer="zeros"), self.shard)
        self.bias = self.add_weight(shape=(self.units,), name="bias", initializer="zeros") if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        """[..., inputs], or this rank's part of them, to [..., units]."""
        if self.taken:
            inputs = self.group.enter(inputs, self.name)[..., self.shard.first : self.shard.end]
        y = self.group.leave(keras.ops.matmul(inputs, self.kernel), self.name)
        return self.activation(y if self.bias is None else keras.ops.add(y, self.bias))


class SplitEmbedding(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
    """An Embedding split by its rows."""

    def __init__(self, embedding: Any, group: TensorGroup) -> None:
        super().__init__(name=embedding.name, dtype=embedding.dtype_policy, trainable=embedding.trainable)
        self.autocast = False  # indices are no numbers to round
        self.group = group
        self.shard = group.shard(0, embedding.input_dim)
        self.output_dim = embedding.output_dim
        self.mask_zero = embedding.mask_zero
        self.supports_masking = embedding.mask_zero

    def build(self, input_shape: Any) -> None:
        """Add this rank's rows, for indices of any shape."""
        own = self.shard.end - self.shard.first
        rows = self.add_weight(shape=(own, self.output_dim), name="embeddings", initializer="zeros")
        self.embeddings = _split(rows, self.shard)

    def call(self, inputs: Any) -> Any:
        """Indices [...] to rows [..., output_dim]; only rows that were asked for have a gradient.

        Indices below or above all rows go to the first or the last rank, which refuses them as one rank would.
        """
        first, end, last = self.shard.first, self.shard.end, self.group.size - 1
        indices = tf.cast(inputs, tf.int32)
        own = tf.fill(tf.shape(indices), True)
        own = own & (indices >= first) if self.group.index else own
        own = own & (indices < end) if self.group.index < last else own
        places = tf.where(own)
        found = tf.gather(tf.convert_to_tensor(self.embeddings), tf.boolean_mask(indices, own) - first)
        shape = tf.concat([tf.shape(indices, tf.int64), [self.output_dim]], 0)
        rows = tf.ensure_shape(tf.scatter_nd(places, found, shape), [*inputs.shape, self.output_dim])
        return tf.cast(self.group.leave(rows, self.name), self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """As Embedding does: index 0 may be padding."""
        return keras.ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, shape: Any) -> Any:
        """[...] to [..., output_dim]."""
        return (*shape, self.output_dim)


class SplitDropout(keras.layers.Dropout):  # type: ignore[misc]  # keras is untyped
    """Dropout of features of which each rank has a part: drawn for all of them, so it is what one rank would drop."""

    def __init__(self, dropout: Any, shard: Shard) -> None:
        super().__init__(**dropout.get_config())
        self.shard = shard

    def call(self, inputs: Any, training: bool = False) -> Any:
        """[..., part of the features], of which some are dropped while training."""
        if not training or not self.rate:
            return inputs
        shape = tf.concat([tf.shape(inputs)[:-1], [self.shard.size]], 0)
        kept = keras.random.dropout(tf.ones(shape, inputs.dtype), self.rate, seed=self.seed_generator)
        return inputs * kept[..., self.shard.first : self.shard.end]


def split_crossentropy(group: TensorGroup, label_smoothing: float) -> Any:
    """Cross-entropy of logits of which each rank has the part of some classes; the logits are never gathered.

    Returns:
        A function of targets [N, classes] and this rank's logits [N, classes / ranks] that gives losses [N], which
        are the same on every rank of the group.
    """

    def losses(targets: Any, logits: Any) -> Any:
        shard = group.shard(1, targets.shape[-1])
        targets = targets * (1 - label_smoothing) + label_smoothing / targets.shape[-1]
        highest = tf.stop_gradient(tf.reduce_max(logits, -1))
        highest = tf.reduce_max(group.together(highest[None], "loss.highest"), 0)
        shares = tf.stack(
            [
                tf.reduce_sum(tf.exp(logits - highest[:, None]), -1),
                tf.reduce_sum(targets[:, shard.first : shard.end] * logits, -1),
            ]
        )
        exponentials, chosen = tf.unstack(group.leave(shares, "loss"))
        return (tf.math.log(exponentials) + highest) * tf.reduce_sum(targets, -1) - chosen

    return losses


def predicted_right(group: TensorGroup) -> Any:
    """Whether the class with the highest logit is the right one, from logits as in `split_crossentropy`."""

    def right(targets: Any, logits: Any) -> Any:
        first = group.shard(1, targets.shape[-1]).first
        own = tf.argmax(logits, -1, tf.int32) + first
        highest = group.together(tf.reduce_max(logits, -1)[None], "accuracy.highest")
        places = group.together(own[None], "accuracy.place")
        predicted = tf.gather(tf.transpose(places), tf.argmax(highest), batch_dims=1)
        return tf.cast(predicted == tf.argmax(targets, -1, tf.int32), tf.float32)

    return right


def _split(variable: Any, shard: Shard) -> Any:
    variable.shard = shard
    return variable
