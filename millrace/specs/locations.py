"""Where in the author's own code something was asked for: `file:line`, for messages about wiring."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pydantic

__all__ = ["author_line", "line_of", "raising_line"]

_FRAMEWORK = Path(__file__).parents[1]
_NOT_THE_AUTHORS = (
    *(f"{_FRAMEWORK / name}/" for name in ("specs", "components", "runtime")),
    f"{Path(pydantic.__file__).parent}/",
    contextlib.__file__,
)


def author_line() -> str:
    """The line of the nearest caller that is the author's own."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def raising_line(error: BaseException) -> str:
    """The author's own line that is nearest to where an error was raised; empty when there is none."""
    location = ""
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
            location = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return location


def line_of(function: Callable[..., object]) -> str:
    """The line at which a function is defined."""
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
