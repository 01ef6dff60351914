"""The report of a run: one self-contained page that opens from a file, offline and without scripts."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from millrace.runners.answers import wrong_answers
from millrace.runners.record import PipelineRun, TaskState
from millrace.runners.report_data import lineages, links, outputs_of, rejections
from millrace.runners.report_graph import picture
from millrace.runners.report_tasks import section, times
from millrace.runners.report_text import duration, moment, number, relative_link, settings
from millrace.runtime.pages import page_environment, size
from millrace.runtime.task import write_atomically
from millrace.specs import Report

__all__ = ["write_report"]


def write_report(run: PipelineRun, directory: Path) -> Path:
    """Write the report of a run, seen whole or not at all.

    The page holds all it shows but logs and artifacts, which it links relative to `directory`: the
    root folder can be moved or zipped as a whole. The same record and artifacts give the same bytes.

    Args:
        run: The record; the run may still be going on.
        directory: The folder of the run, `ROOT/runs/ID`.

    Returns:
        The page, `report.html` in that folder.
    """
    path = directory / "report.html"
    write_atomically(path, _environment().get_template("report.html").render(_facts(run, directory)))
    return path


def _facts(run: PipelineRun, folder: Path) -> dict[str, Any]:
    counts = Counter(task.state for task in run.tasks.values())
    order = [name for name in run.pipeline.order() if name in run.tasks]
    return {
        "run": run,
        "took": duration((run.ended - run.started).total_seconds()) if run.ended else "",
        "states": [(state, counts[state]) for state in TaskState if counts[state]],
        "picture": picture(run),
        "times": times(run),
        "results": _results(run),
        "reports": _reports(run, folder),
        "sections": [section(run, run.tasks[name], folder) for name in order],
        "links": links(run),
        "lineages": lineages(run),
        "answers": wrong_answers(run),
        "rejections": rejections(run),
        "config": settings(run.config),
        "machine": _machine(run),
    }


def _results(run: PipelineRun) -> list[tuple[str, str, float, str]]:
    """Task, name, value and description of each metric that a component declares."""
    return [
        (task.name, metric.name, task.metrics[metric.name], metric.description)
        for name in run.pipeline.order()
        if (task := run.tasks.get(name)) is not None
        for metric in run.pipeline.component_of(run.pipeline.task(name)).metrics
        if metric.name in task.metrics
    ]


def _reports(run: PipelineRun, folder: Path) -> list[tuple[str, str]]:
    """Names of and links to the pages that tasks wrote."""
    return [
        (f"{task.name}.{port}", relative_link(task.output_path(port), folder))
        for task, port in outputs_of(run, Report)
        if task.output_path(port).is_file()
    ]


def _machine(run: PipelineRun) -> str:
    facts = dict(run.machine)
    cores, memory = facts.pop("cores", None), facts.pop("memory", None)
    texts = [str(value) for value in facts.values() if value]
    if cores:
        texts.append(f"{cores} cores")
    if isinstance(memory, (int, float)):
        texts.append(f"{size(memory)} of memory")
    return ", ".join(texts)


@cache
def _environment() -> Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"duration": duration, "moment": moment, "number": number}
    environment.filters |= {"svg_address": _svg_address, "checksum": _checksum, "quoted": shlex.quote}
    return environment


def _svg_address(svg: str) -> str:
    """An address that holds an SVG: as an image it can neither run scripts nor clash with the page's ids."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _checksum(script: str) -> str:
    """By which the page's content security policy knows its own script, and allows no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
