"""Writes a page for each component from its spec and its README, and one of what was measured; called by mkdocs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import mkdocs_gen_files

from millrace.registry import COMPONENTS, load_component
from millrace.specs import ComponentSpec, Port
from millrace.specs.schema import parameter_rows

ROOT = Path(__file__).parents[1]


def page(spec: ComponentSpec, readme: str) -> Iterator[str]:
    """The lines of one component's page."""
    yield readme.rstrip()
    needs = spec.resources
    yield f"\n*Version: {spec.version}; image: `{spec.image}`; cores: {needs.cpus:g}; "
    yield f"memory: {needs.memory_gib:g} GiB; GPUs: {needs.gpus}; division of work: {spec.distribution.mode}*\n"
    yield from ports("Inputs", spec.inputs)
    yield from ports("Outputs", spec.outputs)
    if spec.metrics:
        yield from table("Metrics", ("name", "what"), ((item.name, item.description) for item in spec.metrics))
    rows = (
        (f"`{item.name}`", item.kind, f"`{item.default}`" if item.default else "required", item.description)
        for item in parameter_rows(spec.parameters)
    )
    yield from table("Parameters", ("name", "type", "default", "what"), rows)


def ports(title: str, given: Iterable[Port]) -> Iterator[str]:
    """A table of ports; nothing when there are none."""
    rows = [
        (
            f"`{port.name}`",
            port.artifact.title.rpartition(".")[2] + (" (optional)" if port.optional else ""),
            port.description,
        )
        for port in given
    ]
    if rows:
        yield from table(title, ("port", "artifact", "what"), rows)


def table(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table below a heading."""
    yield f"\n## {title}\n"
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |"


def overview() -> Iterator[str]:
    """The page that lists all components."""
    yield "# Component library\n"
    for name in COMPONENTS:
        spec = load_component(name).spec
        yield f"- [{name}]({name}.md): {spec.description}"


def measured() -> str:
    """The page of what was measured."""
    sys.path.insert(0, str(ROOT))  # the benchmarks are beside the package, not in it
    from benchmarks.page import render_markdown
    from benchmarks.plan import SUITES
    from benchmarks.results import read_results

    return render_markdown(read_results(ROOT / "benchmarks" / "results", SUITES))


for name in COMPONENTS:
    readme = (ROOT / "components" / name / "README.md").read_text()
    with mkdocs_gen_files.open(f"library/{name}.md", "w") as file:
        file.write("\n".join(page(load_component(name).spec, readme)) + "\n")
with mkdocs_gen_files.open("library/index.md", "w") as file:
    file.write("\n".join(overview()) + "\n")
with mkdocs_gen_files.open("benchmarks.md", "w") as file:
    file.write(measured())
