"""What goes on, in a terminal: a live table where somebody watches, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any, Self, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["STATE_STYLES", "Watched", "plain_console", "task_table"]

STATE_STYLES: Mapping[str, str] = {
    "pending": "dim",
    "running": "bold cyan",
    "succeeded": "green",
    "cached": "blue",
    "skipped": "yellow",
    "failed": "bold red",
    "cancelled": "magenta",
}


class _Output:
    """Standard output that falls silent when it can't be written any more; the work goes on."""

    def __init__(self) -> None:
        self.stream = sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError:  # nobody reads the pipe, the terminal was closed, the disk of the file is full
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def plain_console() -> Console:
    """A console that prints text as it is: brackets and numbers mean nothing to it."""
    return Console(
        file=cast("IO[str]", _Output()), markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty()
    )


class Watched:
    """Base of displays: `live` is there where the output is a terminal."""

    def __init__(self) -> None:
        self.console = plain_console()
        self._draw: Callable[[], RenderableType] = lambda: ""
        self.live = (
            Live(console=self.console, refresh_per_second=4, get_renderable=lambda: self._draw())
            if self.console.is_terminal
            else None
        )

    def draw(self, draw: Callable[[], RenderableType]) -> None:
        """Show what `draw` returns, which is called again and again, so that times go on while nothing happens."""
        self._draw = draw
        if self.live:
            self.live.refresh()

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()


def task_table(title: str, *more: str) -> Table:
    """An empty table of tasks: name, state, `more` figures, time, and what is to be said."""
    table = Table(title=Text(title, style="table.title"), title_justify="left", box=None, pad_edge=False)
    table.add_column("task")
    table.add_column("state")
    for heading in (*more, "time"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    return table
