"""Micro-batching: one thread owns the model and answers waiting requests together."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.runtime.limits import Limits

__all__ = ["Batcher", "ModelError", "OverloadedError", "Predict"]

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Examples, [N, *shape] of the model's records, to probabilities, float32 [N, classes]."""

logger = logging.getLogger("millrace.deploy")


class OverloadedError(Exception):
    """More instances wait than are allowed."""


class ModelError(Exception):
    """The model failed on input that passed every check."""


@dataclass(eq=False)
class _Item:
    examples: NDArray[Any]
    answer: Future[NDArray[np.float32]] = field(default_factory=Future)


class Batcher:
    """A queue in front of a model.

    Args:
        load: Loads the model; called in the thread that will use it, so that `start` returns at once.
        limits: Batch size, delay and the number of examples that may wait.
        observe: Is told the size of each batch.
    """

    def __init__(self, load: Callable[[], Predict], limits: Limits, observe: Callable[[int], None]) -> None:
        self.waiting = 0
        """Images accepted and not yet answered; changed in the event loop only."""
        self.ready = False
        """Whether the model is loaded."""
        self._load = load
        self._limits = limits
        self._observe = observe
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._failed: Callable[[Exception], None] = lambda error: None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self, failed: Callable[[Exception], None]) -> None:
        """Load the model in its thread; `failed` is called there when that can't be done."""
        self._failed = failed
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Answer what waits and end the thread."""
        self.ready = False
        self._queue.put(None)
        self._thread.join(timeout)

    async def predict(self, examples: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities, float32 [N, classes], of examples, [N, *shape] with N >= 1.

        When the caller is cancelled, its examples are dropped unless the model has begun with them.

        Raises:
            OverloadedError: When too many examples wait already.
            ModelError: When the model fails.
        """
        if self.waiting + len(examples) > self._limits.max_queue:
            raise OverloadedError(f"{self.waiting} instances wait for the model, the limit is {self._limits.max_queue}")
        size = self._limits.max_batch_size
        items = [_Item(examples[start : start + size]) for start in range(0, len(examples), size)]
        self.waiting += len(examples)
        try:
            for item in items:
                self._queue.put(item)
            answers = await asyncio.gather(*(asyncio.wrap_future(item.answer) for item in items))
        finally:
            self.waiting -= len(examples)
        return np.concatenate(answers)

    def _work(self) -> None:
        try:
            predict = self._load()
        except Exception as error:
            self._failed(error)
            return
        self.ready = True
        item = self._queue.get()
        while item is not None:
            batch, item = self._gather(item)
            self._answer(predict, [one for one in batch if one.answer.set_running_or_notify_cancel()])
            item = item or self._queue.get()

    def _gather(self, first: _Item) -> tuple[list[_Item], _Item | None]:
        """A batch that begins with `first`, and the item that did not fit any more."""
        batch, size = [first], len(first.examples)
        deadline = time.monotonic() + self._limits.max_delay_ms / 1000
        while size < self._limits.max_batch_size:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)  # for the loop outside: this batch comes first
                break
            if size + len(item.examples) > self._limits.max_batch_size:
                return batch, item
            batch.append(item)
            size += len(item.examples)
        return batch, None

    def _answer(self, predict: Predict, batch: list[_Item]) -> None:
        if not batch:
            return
        examples = np.concatenate([item.examples for item in batch])
        self._observe(len(examples))
        try:
            answers = _checked(predict(examples), len(examples))
        except Exception as error:  # whatever the runtime raises belongs to the requests, not to this thread
            logger.exception("the model failed on a batch of %d instances", len(examples))
            if len(batch) == 1:
                batch[0].answer.set_exception(ModelError(f"the model failed: {type(error).__name__}"))
                return
            for item in batch:
                self._answer(predict, [item])
            return
        start = 0
        for item in batch:
            item.answer.set_result(answers[start : start + len(item.examples)])
            start += len(item.examples)


def _checked(answers: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if answers.ndim != 2 or len(answers) != count:
        raise ModelError(f"the model answered {count} instances with an array of shape {answers.shape}")
    if not np.isfinite(answers).all():
        raise ModelError("the model answered with NaN or infinity")
    return answers
