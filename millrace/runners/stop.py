"""How a run is asked to end: by Ctrl-C, by a signal, by a terminal that was closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

__all__ = ["Stop", "stop_on_signal"]


@dataclass
class Stop:
    """Whether the run shall end, and whether it may not wait for workers to end in order."""

    asked: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def stop_on_signal(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the run in order; a second time, without waiting for workers."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave(terminals)
        if stop.asked.is_set():
            stop.at_once.set()
        stop.asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream and stream.isatty()]
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        numbers.remove(signal.SIGHUP)
    earlier = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _leave(terminals: list[int]) -> None:
    """Write nowhere instead of to a terminal that is gone, which would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for terminal in terminals:
        os.dup2(nowhere, terminal)
    os.close(nowhere)
