"""`millrace lineage`: where an artifact, an object, a record or a metric of a run came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from pydantic_core import to_json
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from millrace.errors import UserError
from millrace.runners.answers import Measured
from millrace.runners.lineage import ROOT, RunLineage, of_run, open_run
from millrace.runners.trace import Trace, trace
from millrace.terminal import plain_console

__all__ = ["run"]

_WIDE = 200
"""Where nobody watches: whoever reads a file or a pipe does not want cells cut."""
_DIGITS = 12
"""Of a digest, as git shows its own."""
_MISTAKES = 20


def run(words: Sequence[str]) -> int:
    """Print the chain of a run (its id, or the newest), or the way of one object, record or metric of it."""
    names, root, as_json = _asked(words)
    record = open_run(root, names[0] if names else "latest")
    found = of_run(record) if len(names) < 2 else trace(record, names[1], mistakes=None if as_json else _MISTAKES)
    if as_json:
        sys.stdout.buffer.write(to_json(found, indent=2) + b"\n")  # no copies as text: there may be very many mistakes
        return 0
    console = plain_console()
    if not console.is_terminal:
        console.width = _WIDE
    if isinstance(found, RunLineage):
        _print_run(found, console)
    else:
        _print_trace(found, console)
    return 0


def _asked(words: Sequence[str]) -> tuple[list[str], Path, bool]:
    names: list[str] = []
    root = ROOT
    rest = [word for word in words if word != "--json"]
    while rest:
        word = rest.pop(0)
        if word == "--root" or word.startswith("--root="):
            value = word.partition("=")[2] or (rest.pop(0) if rest else "")
            if not value:
                raise UserError("--root needs a folder, as runner.root of the run named it")
            root = Path(value)
        elif word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}: allowed are RUN, OBJECT, --json and --root FOLDER")
        else:
            names.append(word)
    if len(names) > 2:
        raise UserError(f"unexpected argument {names[2]!r}: millrace lineage RUN OBJECT (in quotes, if it has spaces)")
    return names, root, "--json" in words


def _print_run(found: RunLineage, console: Console) -> None:
    _print_head(found.run, found.revision, console, f"pipeline {found.pipeline}, {found.state}, {found.started}")
    table = _table("artifact", "made from", "task key", "parameters that were set", "where")
    for one in found.artifacts:
        table.add_row(
            f"{one.task}.{one.output}",
            "\n".join(one.made_from),
            _key(one.keys),
            "\n".join(_flat(one.parameters)),
            _short(one.path),
        )
    console.print(table)
    if found.channels:
        told = ", ".join(f"{number:,} {name}" for name, number in found.channels.items())
        console.print(f"\nobjects: {told}")
    console.print(f"{'' if found.channels else chr(10)}{found.verdict}")


def _print_trace(found: Trace, console: Console) -> None:
    _print_head(found.run, found.revision, console, found.about)
    if found.object:
        facts = Table(box=None, pad_edge=False, show_header=False)
        for name, value in found.object.items():
            facts.add_row(name, Text(str(value), overflow="fold"))
        console.print(Padding(facts, (0, 0, 1, 2)))
    table = _table("task", "what it did", "key", "parameters that were set")
    for step in found.steps:
        told = "\n".join(_flat(step.facts))
        table.add_row(step.task, told, _key(step.keys), "\n".join(_flat(step.parameters)))
    console.print(table)
    if found.measured is not None:
        _print_measured(found.measured, console)


def _print_measured(found: Measured, console: Console) -> None:
    told = f"{found.records:,} records of the channel {found.channel}"
    which = f" {found.which}" if found.which else ""
    listed = "" if found.objects is None else f" (the manifest has {found.objects:,} objects there)"
    console.print(f"\nover {told}{which}{listed}: {found.right:,} are classified correctly, {found.wrong:,} are not")
    console.print(f"answers: {_short(found.predictions)}\nmodel: {_short(found.model)}")
    if not found.mistakes:
        return
    rest = "" if len(found.mistakes) == found.wrong else f", the first {len(found.mistakes)}; --json lists all"
    console.print(f"\nwrong answers, the most confident first{rest}:")
    confused = [f"{mistake.true}, taken for {mistake.predicted}" for mistake in found.mistakes]
    wide = max(map(len, confused))
    for said, mistake in zip(confused, found.mistakes, strict=True):  # no table: a URI in one piece can be copied
        console.print(f"  {mistake.probability:.4f}  {said:<{wide}}  {mistake.uri}", soft_wrap=True)


def _print_head(run: str, revision: str, console: Console, told: str) -> None:
    console.print(f"{told}\nrun {run}, code {revision or 'outside git'}\n")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _key(keys: Sequence[str]) -> str:
    return keys[0][:_DIGITS] if len(keys) == 1 else f"{len(keys)} workers" if keys else ""


def _flat(facts: Mapping[str, JsonValue], above: str = "") -> list[str]:
    """`name=value` lines; of nested values those inside."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{above}{name}.")
        else:
            lines.append(f"{above}{name}={_told(name, value)}")
    return lines


def _told(name: str, value: JsonValue) -> str:
    if isinstance(value, str):
        return value[:_DIGITS] if name == "sha256" else value
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _short(path: str) -> str:
    """Relative to here, where it is below."""
    place = Path(path).absolute()
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else path
