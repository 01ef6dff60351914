"""`millrace components` and `millrace describe`: the library as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from millrace.config import add_import_paths, pipeline_values, user_components, user_pipelines
from millrace.errors import ConfigError, UserError, did_you_mean
from millrace.registry import AnyComponent, AnyPipeline, components, load_component, load_pipeline, pipelines
from millrace.settings import validated
from millrace.specs import Port
from millrace.specs.schema import ParameterRow, parameter_rows

__all__ = ["describe", "list_components"]

_TABLE_WIDTH = 120
"""Narrower terminals get parameters one below the other, and components without their ports."""


def list_components(words: Sequence[str]) -> int:
    """Print every component that can be used here: ours, installed packages' and the user's own."""
    added = _added(words, allowed=0)
    console = _console()
    wide = console.width >= _TABLE_WIDTH
    ports = ("inputs", "outputs") if wide else ()
    table = Table("component", "version", "image", *ports, "what it does", box=None, pad_edge=False)
    for name in sorted(components(added)):
        spec = load_component(name, added).spec
        inputs = " ".join(_short(port) for port in spec.inputs)
        outputs = " ".join(port.name for port in spec.outputs)
        cells = (inputs, outputs) if wide else ()
        table.add_row(spec.name, spec.version, spec.image, *cells, spec.description)
    console.print(table)
    console.print("\nMore on one: millrace describe NAME", highlight=False)
    return 0


def describe(words: Sequence[str]) -> int:
    """Print one component or pipeline; both when they share a name.

    Raises:
        UserError: When there is none of that name.
    """
    names = [word for word in words if not word.startswith("-")]
    added = _added(words, allowed=1)
    if not names:
        raise UserError("which one? example: millrace describe train")
    name = names[0]
    flows = pipelines() | user_pipelines(words)
    if name not in components(added) and name not in flows:
        raise ConfigError(f"unknown component or pipeline {name!r}: {did_you_mean(name, {*components(added), *flows})}")
    if name in components(added):
        _describe_component(load_component(name, added))
    if name in flows:
        _describe_pipeline(load_pipeline(flows[name]), pipeline_values(name, words))
    return 0


def _added(words: Sequence[str], allowed: int) -> Mapping[str, str]:
    add_import_paths(words)
    rest = [word for position, word in enumerate(words) if not _is_config_dir(words, position)]
    unknown = [word for word in rest if word.startswith("-")] + rest[allowed:]
    if unknown:
        raise UserError(f"unexpected argument {unknown[0]!r}: allowed are a name and --config-dir DIR")
    return user_components(words)


def _is_config_dir(words: Sequence[str], position: int) -> bool:
    flags = ("--config-dir", "-cd")
    return words[position].partition("=")[0] in flags or (position > 0 and words[position - 1] in flags)


def _describe_component(component: AnyComponent) -> None:
    spec = component.spec
    console = _console()
    console.print(f"{spec.name} {spec.version}: {spec.description}\n", highlight=False, markup=False)
    _print_parameters(console, parameter_rows(spec.parameters), "default")
    _print_ports(console, "inputs", spec.inputs)
    _print_ports(console, "outputs", spec.outputs)
    if spec.metrics:
        table = Table("metric", "", title="metrics", title_justify="left", box=None, pad_edge=False)
        for metric in spec.metrics:
            table.add_row(metric.name, metric.description)
        console.print(table, "")
    needs = spec.resources
    console.print(
        f"image: {spec.image}; cores: {needs.cpus:g}; memory: {needs.memory_gib:g} GiB; GPUs: {needs.gpus}; "
        f"division of work: {spec.distribution.mode}",
        highlight=False,
    )


def _describe_pipeline(pipeline: AnyPipeline, composed: Mapping[str, Any]) -> None:
    """Print a pipeline with the values that it has where nothing is overridden: those of its file, then defaults."""
    console = _console()
    console.print(f"{pipeline.name}: {pipeline.description}\n", highlight=False, markup=False)
    values = {name: composed[name] for name in pipeline.config.model_fields if name in composed}
    _print_parameters(console, parameter_rows(pipeline.config.model_json_schema(), values), "value")
    try:
        config = validated(pipeline.config, values)
        console.print(f"tasks: {' -> '.join(pipeline.compose(config).order())}", highlight=False)
    except UserError:  # something is required
        return
    for remark in config.remarks():
        console.print(f"note: {remark}", highlight=False)


def _print_parameters(console: Console, parameters: Iterable[ParameterRow], column: str) -> None:
    rows = [
        (item.name, item.kind, item.default or "required", " ".join(item.description.split())) for item in parameters
    ]
    if not rows:
        return
    if console.width < _TABLE_WIDTH:
        console.print("parameters", style="italic")
        for name, kind, default, description in rows:
            value = default if default == "required" else f"{column} {default}"
            console.print(name, style="bold", highlight=False)
            console.print(Padding(Text(f"{kind}; {value}\n{description}".rstrip()), (0, 0, 0, 4)))
        console.print()
        return
    table = Table(title="parameters", title_justify="left", box=None, pad_edge=False)
    for head in ("parameter", "type", column, ""):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, "")


def _print_ports(console: Console, title: str, ports: Iterable[Port]) -> None:
    table = Table("port", "artifact", "", title=title, title_justify="left", box=None, pad_edge=False)
    for port in ports:
        note = " (optional)" if port.optional and not port.many else " (any number)" if port.many else ""
        table.add_row(port.name, f"{port.artifact.title.rpartition('.')[2]}{note}", port.description)
    if table.row_count:
        console.print(table, "")


def _short(port: Port) -> str:
    return f"[{port.name}]" if port.optional else port.name


def _console() -> Console:
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=160)
