"""How a run on the target looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from millrace.services.kubeflow.status import RunStatus
from millrace.services.times import duration
from millrace.terminal import STATE_STYLES, Watched, plain_console, task_table

__all__ = ["Display", "show"]


class Display(Watched):
    """Shows a run while it is followed."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, str] = {}

    def update(self, status: RunStatus) -> None:
        """Show the run as it is now."""
        if self.live:
            self.draw(lambda: _table(status))
            return
        for task in status.tasks:
            if task.state != self._seen.get(task.name, "pending"):
                self._seen[task.name] = task.state
                words = (
                    f"{task.name:<12}",
                    task.state,
                    "" if task.state == "running" else duration(task.seconds),
                    task.detail,
                )
                self.console.print("  ".join(word for word in words if word))


def show(status: RunStatus, console: Console | None = None, tasks: bool = True) -> None:
    """Print a run: its tasks, its parameters, how it ended and where to see it."""
    console = console or plain_console()
    if tasks:
        console.print(_table(status))
    for name, value in sorted(status.parameters.items()):
        console.print(f"  {name:<28} {value}")
    if status.error:
        console.print(f"  {status.error}")
    began = f", started {status.created:%Y-%m-%d %H:%M:%S} UTC" if status.created else ""
    took = f", {duration((status.ended - status.created).total_seconds())}" if status.ended and status.created else ""
    console.print(f"{status.name}: {status.state}{began}{took}")
    console.print(f"see it: {status.link}")


def _table(status: RunStatus) -> Table:
    table = task_table(f"{status.name}  {status.run_id}")
    for task in status.tasks:
        state = Text(task.state, style=STATE_STYLES.get(task.state, ""))
        table.add_row(task.name, state, duration(task.seconds), Text(task.detail))
    return table
