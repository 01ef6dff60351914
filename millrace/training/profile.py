"""Where the time of a training step goes: waiting for input, computing, adding up over ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from pydantic import BaseModel

from millrace.specs import Curve, Lines
from millrace.training.gradients import AddUp
from millrace.training.ranks import Ranks

__all__ = ["Clock", "Spent", "time_chart"]

_PARTS = {"input": "waiting for input", "compute": "computing", "reduce": "adding up over ranks"}


class Spent(BaseModel):
    """Milliseconds of a step, as means over an epoch; without the steps that compile."""

    epoch: int
    input: float
    compute: float
    reduce: float


class Clock:
    """Measures the steps of this rank, epoch by epoch."""

    def __init__(self) -> None:
        self._reduce: Any = tf.Variable(tf.zeros([], tf.float64), trainable=False)
        self._warm: list[Any] = []
        self._start()

    def timed(self, add: AddUp) -> AddUp:
        """`add` with its time measured: from when this rank has its numbers to when it has the sums."""

        def measured(
            gradients: Sequence[Any], others: Sequence[Any], ranks: Ranks, name: str, *, half: bool = False
        ) -> tuple[list[Any], list[Any]]:
            with tf.control_dependencies(_tensors([gradients, others])):
                begun = _now()
            with tf.control_dependencies([begun]):
                sums, rest = add(gradients, others, ranks, name, half=half)
            with tf.control_dependencies(_tensors([sums, rest])):
                self._reduce.assign_add(_now() - begun)
            return sums, rest

        return measured

    def take(self, step: Callable[[Iterator[Any]], Any], batches: Iterator[Any]) -> Any:
        """Call `step` with the next batch and measure both."""
        before, begun = float(self._reduce), time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - begun
        alone = iter(tf.data.Dataset.from_tensors(batch))
        begun = time.perf_counter()
        figures = step(alone)
        float(tf.nest.flatten(figures)[0]) if figures else self._reduce.read_value()  # done when a number is there
        computed = time.perf_counter() - begun
        if any(step is one for one in self._warm):
            self._input += waited
            self._compute += computed
            self._steps += 1
        else:
            self._warm.append(step)
            self._reduce.assign(before)
        return figures

    def expect_compiling(self) -> None:
        """Leave out the next call of each function: steps are made anew."""
        self._warm.clear()

    def finish(self, epoch: int, log: logging.Logger) -> Spent | None:
        """What a step of this epoch took; None when all of them compiled."""
        steps, reduce = self._steps, float(self._reduce)
        spent = [1000 * seconds / max(1, steps) for seconds in (self._input, self._compute - reduce, reduce)]
        self._start()
        if not steps:
            return None
        whole = sum(spent)
        told = ", ".join(f"{ms:.2f} {what} ({ms / whole:.0%})" for ms, what in zip(spent, _PARTS.values(), strict=True))
        log.info("epoch %d took %.2f ms a step: %s", epoch, whole, told)
        return Spent(epoch=epoch, input=spent[0], compute=spent[1], reduce=spent[2])

    def _start(self) -> None:
        self._input = self._compute = 0.0
        self._steps = 0
        self._reduce.assign(0.0)


def time_chart(spent: Sequence[Spent]) -> tuple[Lines, ...]:
    """A plot of all epochs; none without any."""
    if not spent:
        return ()
    epochs = tuple(float(one.epoch) for one in spent)
    curves = tuple(
        Curve(name=what, x=epochs, y=tuple(getattr(one, part) for one in spent)) for part, what in _PARTS.items()
    )
    title = "Time of a step"
    return (Lines(name="time_by_epoch", title=title, x_label="epoch", y_label="milliseconds", curves=curves),)


def _now() -> Any:
    return tf.numpy_function(time.perf_counter, [], tf.float64)  # deterministic mode refuses tf.timestamp


def _tensors(values: Any) -> list[Any]:
    found = [value for value in tf.nest.flatten(values, expand_composites=True) if value is not None]
    return [value for value in found if tf.is_tensor(value)]
