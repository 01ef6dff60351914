"""`millrace cost`: what one run on SageMaker may cost."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from millrace.commands.of_target import Asked
from millrace.commands.sagemaker.documents import definition_text
from millrace.compilers.sagemaker.cost import Bill, bill
from millrace.compilers.sagemaker.machines import Machines, read_machines
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    machines = read_machines(settings.cost.machines)
    found = bill(definition_text(settings), machines, settings.cost)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(_table(found, machines))
    low, high = found.total
    least = "at least " if found.unknown else ""
    console.print(f"one run: {least}{_money((low, high), machines.currency)}")
    for item in found.endpoints:
        price = _money(item.price, machines.currency)
        console.print(f"{item.step}: {price} a day until it is deleted, {item.hosts} x {item.machine}")
    if found.unknown:
        told = ", ".join(f"{step} on {machine}" for step, machine in found.unknown)
        console.print(f"not counted, no price known: {told} (cost.machines=FILE names prices)")
    target = settings.sagemaker()
    elsewhere = f"; target.region is {target.region}" if target.region != machines.region else ""
    console.print(f"prices: {machines.region}, read {machines.read}: {machines.source}{elsewhere}")
    console.print("not counted: requests and storage in S3, logs, transfers, and what the cache saves")
    guessed = [item.step for item in found.items if item.minutes[0] != item.minutes[1]]
    if guessed:
        key = f"cost.minutes.{guessed[-1].replace('-', '_')}=30"
        console.print(
            f"durations of {len(guessed)} steps are guesses: give yours, {key} for one (of a search: a single job's)"
        )
    return 0


def _table(found: Bill, machines: Machines) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("step", "machines", "minutes", f"price ({machines.currency})", ""):
        table.add_column(name, justify="left" if name in ("step", "machines", "") else "right")
    for item in found.items:
        low, high = item.minutes
        told = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        table.add_row(item.step, f"{item.hosts} x {item.machine}", told, _money(item.price), item.note)
    return table


def _money(price: tuple[float, float], currency: str = "") -> str:
    low, high = (f"{each:.2f}" if each >= 0.1 else f"{each:.3f}" for each in price)
    return f"{low if low == high else f'{low} to {high}'} {currency}".rstrip()
