"""How an execution looks in a terminal: a live table, or plain lines where nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from millrace.services.sagemaker.links import job_link
from millrace.services.sagemaker.status import RunStatus
from millrace.services.times import duration
from millrace.terminal import STATE_STYLES, Watched, plain_console, task_table

__all__ = ["Display", "show"]


class Display(Watched):
    """Shows an execution while it is followed."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, str] = {}

    def update(self, status: RunStatus) -> None:
        """Show the execution as it is now."""
        if self.live:
            self.draw(lambda: _table(status))
            return
        if status.note:  # told at the end; nothing is known of single steps
            return
        width = max((len(step.name) for step in status.steps), default=0)
        for step in status.steps:
            if step.state != self._seen.get(step.name, "pending"):
                self._seen[step.name] = step.state
                running = step.state == "running"
                told = job_link(status.arn.split(":")[3], step.arn) if running else step.detail
                words = (f"{step.name:<{width}}", step.state, "" if running else duration(step.seconds), told)
                self.console.print("  ".join(word for word in words if word))


def show(status: RunStatus, console: Console | None = None, steps: bool = True) -> None:
    """Print an execution: its steps, its parameters, how it ended and where to see it."""
    console = console or plain_console()
    if steps:
        console.print(_table(status))
    for name, value in sorted(status.parameters.items()):
        console.print(f"  {name:<28} {value}")
    if status.error:
        console.print(f"  {status.error}")
    began = f", started {status.created.astimezone():%Y-%m-%d %H:%M:%S %Z}" if status.created else ""
    took = f", {duration((status.ended - status.created).total_seconds())}" if status.ended and status.created else ""
    console.print(f"{status.name}: {status.state}{began}{took}")
    if status.note:
        console.print(f"note: {status.note}")
    region = status.arn.split(":")[3]
    for step in status.steps:
        link = job_link(region, step.arn)
        if link and step.state in ("failed", "running"):
            console.print(f"{step.name}: {link}")
    console.print(f"see it: {status.link}")


def _table(status: RunStatus) -> Table:
    table = task_table(f"{status.name}  {status.run_id}", "kind")
    for step in status.steps:
        state = Text(step.state, style=STATE_STYLES.get(step.state, ""))
        table.add_row(step.name, state, step.kind, duration(step.seconds), Text(step.detail))
    return table
