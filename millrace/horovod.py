"""Your own Keras script on several ranks, over Horovod: each has its part of the data, and all have the same weights.

```python
import keras
from millrace import horovod

ranks = horovod.init()
model.compile("adam", "sparse_categorical_crossentropy")
horovod.distribute(model, ranks)
model.fit(dataset.shard(ranks.count, ranks.index).batch(32), callbacks=[horovod.Broadcast(ranks)])
if ranks.first:
    model.save("model.keras")
```

What is saved knows nothing of Horovod: it is loaded like any other model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from millrace.errors import ConfigError, DataError
from millrace.runtime.launcher.mpi import SECONDS, join
from millrace.training.gradients import added_up, shared
from millrace.training.horovod import connect
from millrace.training.ranks import Ranks
from millrace.training.step import add_up_metrics

__all__ = ["Broadcast", "Compression", "Metrics", "WarmUp", "average", "broadcast", "distribute", "init", "sum_metrics"]

Compression = Literal["none", "fp16"]


def init(seconds: float | None = None) -> Ranks:
    """Meet the other ranks, which Millrace's launcher has started, or mpirun, or horovodrun; without one, be the only.

    Args:
        seconds: How long to wait for the others, now and at each sum; None for what the launcher says, else 600.

    Returns:
        This process among all: `index`, `count`, and `first` for the one that writes files.

    Raises:
        PeerError: When a rank does not come.
    """
    log = logging.getLogger(__name__)
    join(log, SECONDS if seconds is None else seconds)
    return connect(seconds, log)


def average(
    gradients: Sequence[Any], ranks: Ranks, *, compression: Compression = "none", name: str = "gradients"
) -> list[Any]:
    """Means of gradients over all ranks, for a training loop of your own.

    Args:
        gradients: As a tape gives them: None stays None, and those of embeddings stay sparse. bfloat16 is added up in
            float32.
        ranks: All of which call this, with gradients of the same variables.
        compression: fp16 sends float32 gradients as float16, which is less to send and slower on processors.
        name: The same on every rank, and another one for each call in a step.
    """
    mine = shared(gradients, 1 / ranks.count)
    return added_up(mine, [], ranks, name, half=compression == "fp16")[0]


def distribute(model: Any, ranks: Ranks, *, compression: Compression = "none", name: str = "gradients") -> None:
    """Have the optimizer of a compiled model use the means of gradients over all ranks.

    They are taken just before Keras clips them. So norms are those of the whole batch, and with
    `gradient_accumulation_steps=k` ranks exchange something once in k steps. Steps that loss scaling skips are skipped
    by all. Steps are not compiled by XLA, which can't wait for other ranks.

    Args:
        model: Compiled; if it is compiled anew, distribute it anew. Doing so twice is as doing it once, the last way.
        ranks: Each of which takes as many steps as the others, of batches of the same size.
        compression: As for `average`.
        name: The same on every rank, and another one for each model that is trained at the same time.

    Raises:
        ConfigError: When the model is not compiled.
    """
    if model.optimizer is None:
        raise ConfigError("distribute: the model has no optimizer yet: call model.compile(optimizer=...) before")
    optimizer: Any = model.optimizer
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        finite = _plain(optimizer, "check_finite")

        def all_finite(gradients: Sequence[Any]) -> Any:
            (count,) = ranks.total([tf.cast(finite(gradients), tf.int32)], f"{name}.finite")
            return count == ranks.count

        optimizer.check_finite = all_finite
        optimizer = optimizer.inner_optimizer
    clip = _plain(optimizer, "_clip_gradients")  # where Keras holds what it is about to use

    def clip_average(gradients: Sequence[Any]) -> Any:
        return clip(average(gradients, ranks, compression=compression, name=name))

    optimizer._clip_gradients = clip_average
    model.jit_compile, model.train_function = False, None


def _plain(optimizer: Any, method: str) -> Callable[[Sequence[Any]], Any]:
    """A method as the optimizer's class has it: that of an optimizer which is distributed again is replaced."""
    return partial(getattr(type(optimizer), method), optimizer)


def broadcast(model: Any, ranks: Ranks) -> None:
    """Give all ranks the first one's weights and optimizer state; seeds of dropout stay each rank's own."""
    optimizer = model.optimizer
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    every = (*model.variables, *(optimizer.variables if optimizer is not None else ()))
    variables = [variable for variable in every if variable.name != "seed_generator_state"]
    values = [variable.value.numpy() for variable in variables]
    content, place = ranks.from_first(b"".join(value.tobytes() for value in values) if ranks.first else b""), 0
    for variable, value in zip(variables, values, strict=True):
        variable.assign(np.frombuffer(content, value.dtype, value.size, place).reshape(value.shape))
        place += value.nbytes


def sum_metrics(model: Any, ranks: Ranks) -> dict[str, float]:
    """The metrics over what all ranks have seen, as one process would give them: not means of means.

    After `model.evaluate` on this rank's part, for one. The states of the model's metrics are added up, as suits those
    of Keras.
    """
    return {name: float(value) for name, value in add_up_metrics(model, ranks).items()}


class Broadcast(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Begins with the first rank's weights and optimizer state, when all ranks take the same number of steps."""

    def __init__(self, ranks: Ranks) -> None:
        """Of all ranks."""
        super().__init__()
        self.ranks = ranks

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Compare the numbers of steps and send the weights.

        Raises:
            DataError: On all ranks, when they take different numbers of steps, and would wait for each other forever.
        """
        steps = self.ranks.joined(tf.constant([(self.params or {}).get("steps") or 0]), "steps").numpy()
        if len(set(steps)) > 1:
            raise DataError(
                f"the ranks take {', '.join(map(str, steps))} steps an epoch, but each step needs all: set "
                "steps_per_epoch, and repeat() the dataset"
            )
        broadcast(self.model, self.ranks)


class Metrics(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Puts the figures over all ranks into the logs, for the callbacks after it: it comes first."""

    def __init__(self, ranks: Ranks) -> None:
        """Of all ranks."""
        super().__init__()
        self.ranks = ranks
        self._trained: dict[str, float] = {}
        self._tested: dict[str, float] = {}

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Take the training figures, which make room for those of the validation now."""
        self._trained = sum_metrics(self.model, self.ranks)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Take the figures of the validation."""
        self._tested = {f"val_{name}": value for name, value in sum_metrics(self.model, self.ranks).items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Put in both."""
        if logs is not None:
            logs.update((self._trained or sum_metrics(self.model, self.ranks)) | self._tested)
        self._trained, self._tested = {}, {}


class WarmUp(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Learning rates for steps of all ranks: from that of one rank up to as many times as much as there are ranks.

    A linear rise over the first steps ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677), section 2.2), after
    which the learning rate is left alone. It goes by the optimizer's number of steps, so a resumed training goes on.
    """

    def __init__(self, ranks: Ranks, learning_rate: float, steps: int) -> None:
        """For an optimizer without a schedule of its own.

        Args:
            ranks: All ranks.
            learning_rate: That of one rank alone.
            steps: After how many steps the highest one is reached.
        """
        super().__init__()
        self.ranks = ranks
        self.learning_rate = learning_rate
        self.steps = steps

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the learning rate of this step."""
        optimizer: Any = self.model and self.model.optimizer
        done = int(optimizer.iterations)
        if done <= self.steps:
            risen = done / max(1, self.steps)
            optimizer.learning_rate = self.learning_rate * (1 + (self.ranks.count - 1) * risen)
