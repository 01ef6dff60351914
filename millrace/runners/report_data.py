"""What a report reads from artifacts: charts, lineage and rejects. What can't be read becomes a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from millrace.errors import UserError
from millrace.runners.record import PipelineRun, TaskRun
from millrace.runners.report_text import number
from millrace.runtime.schemas import CHANNELS
from millrace.runtime.task import MadeArtifact
from millrace.specs import (
    Analysis,
    Artifact,
    Dataset,
    Endpoint,
    Manifest,
    Metrics,
    Model,
    Predictions,
    Records,
    Rejects,
    Shards,
)
from millrace.specs.charts import Chart, Plot, Table, charts_adapter

if TYPE_CHECKING:
    from millrace.data.leaks import LeakCheck

__all__ = [
    "Drawing",
    "Lineage",
    "Link",
    "Rejected",
    "charts_of",
    "leaks_in",
    "lineages",
    "links",
    "outputs_of",
    "rejections",
]

_SAMPLE_ROWS = 8
_REJECT_ROWS = 200
_CLASS_ROWS = 100
_SHORT = 32
"""Letters of a table's cell that may stand on one line."""
_CHAIN = (Dataset, Manifest, Shards, Analysis, Records, Model, Predictions, Endpoint)

_plot_adapter: TypeAdapter[Plot] = TypeAdapter(Plot)


@dataclass(frozen=True)
class Drawing:
    """A chart of a Metrics output."""

    title: str
    svg: str = ""
    table: Table | None = None
    wide: frozenset[int] = frozenset()
    """Columns of the table that hold long text."""
    problem: str = ""
    """Why there is neither."""


@dataclass(frozen=True)
class Link:
    """One artifact of the chain from the source objects to the endpoint."""

    task: str
    port: str
    kind: str
    sources: tuple[str, ...]
    """`task.port` of the chain's artifacts that it was made from."""
    made: MadeArtifact


@dataclass(frozen=True)
class Lineage:
    """The lineage table of a Manifest output."""

    task: str
    channels: tuple[str, ...] = ()
    classes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Objects by channel for each class, largest class first."""
    totals: tuple[int, ...] = ()
    class_count: int = 0
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    objects: int = 0
    verdict: str = ""
    """Whether an object, a content or a group is in two channels."""
    leaks: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Rejected:
    """The tables of a Rejects output."""

    task: str
    port: str
    total: int = 0
    reasons: tuple[tuple[str, int], ...] = ()
    rows: tuple[tuple[str, str, str], ...] = ()
    """uri, reason, detail."""
    problem: str = ""


def outputs_of(run: PipelineRun, *kinds: type[Artifact]) -> Iterator[tuple[TaskRun, str]]:
    """Tasks and ports of the outputs that are of a kind, in the order of the pipeline."""
    for name in run.pipeline.order():
        task = run.tasks.get(name)
        if task is None:
            continue
        for port in run.pipeline.component_of(run.pipeline.task(name)).outputs:
            if port.name in task.outputs and any(port.artifact.fits(kind.artifact_type()) for kind in kinds):
                yield task, port.name


def links(run: PipelineRun) -> list[Link]:
    """The chain of artifacts from the source objects to the answers and the endpoint."""
    found = [(task, port) for task, port in outputs_of(run, *_CHAIN)]
    names = {f"{task.name}.{port}" for task, port in found}
    chain = []
    for task, port in found:
        sources = sorted({source for given in task.inputs.values() for source in given if source in names})
        output = run.pipeline.component_of(run.pipeline.task(task.name)).output(port)
        kind = output.artifact.title.rpartition(".")[2] if output else ""
        chain.append(Link(task.name, port, kind, tuple(sources), task.outputs[port]))
    return chain


def charts_of(run: PipelineRun, task: TaskRun) -> list[Drawing]:
    """The charts of a task's Metrics outputs, drawn."""
    drawings: list[Drawing] = []
    for owner, port in outputs_of(run, Metrics):
        if owner is not task:
            continue
        file = task.output_path(port) / "charts.json"
        try:
            charts = charts_adapter.validate_json(file.read_bytes())
        except OSError as error:
            drawings.append(Drawing(f"Charts of {port}", problem=f"charts.json can't be read: {error.strerror}"))
        except ValidationError:
            drawings.append(Drawing(f"Charts of {port}", problem="charts.json is not a list of charts"))
        else:
            drawings.extend(_drawn(chart) for chart in charts)
    return drawings


def _drawn(chart: Chart) -> Drawing:
    if isinstance(chart, Table):
        return Drawing(chart.title, table=chart, wide=_wide(chart))
    try:
        return Drawing(chart.title, svg=_svg(_plot_adapter.dump_json(chart)))
    except ImportError as error:
        return Drawing(chart.title, problem=_needs((error.name or "matplotlib").partition(".")[0], "train"))
    except Exception as error:  # a chart that can't be drawn must not cost the report
        return Drawing(chart.title, problem=f"it can't be drawn: {type(error).__name__}: {error}")


def _wide(table: Table) -> frozenset[int]:
    cells = zip(*table.rows, strict=True)
    return frozenset(index for index, column in enumerate(cells) if max(map(len, column)) > _SHORT)


@lru_cache(maxsize=256)  # a chart takes a tenth of a second, and a run that goes on is shown again and again
def _svg(chart: bytes) -> str:
    from millrace.runtime.charts import render_svg

    return render_svg(_plot_adapter.validate_json(chart))


def lineages(run: PipelineRun) -> list[Lineage]:
    """The lineage table of each Manifest output."""
    return [_lineage(task, task.output_path(port) / "index.parquet") for task, port in outputs_of(run, Manifest)]


def _lineage(task: TaskRun, file: Path) -> Lineage:
    try:
        import polars as pl
    except ImportError:
        return Lineage(task.name, problem=_needs("polars", "data"))
    try:
        index = pl.scan_parquet(file, glob=False)
        counts = index.group_by("class_label", "channel").len().collect(engine="streaming").rows()
        first = index.head(_SAMPLE_ROWS).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        return Lineage(task.name, problem=_unreadable(file, error))
    check, verdict = leaks_in(file)
    by_class: dict[str, dict[str, int]] = {}
    for label, channel, count in counts:
        by_class.setdefault(_cell(label), {})[_cell(channel)] = count
    present = {channel for row in by_class.values() for channel in row}
    channels = [*(name for name in CHANNELS if name in present), *sorted(present.difference(CHANNELS))]
    ordered = sorted(by_class.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return Lineage(
        task.name,
        channels=tuple(channels),
        classes=tuple((label, tuple(row.get(name, 0) for name in channels)) for label, row in ordered[:_CLASS_ROWS]),
        totals=tuple(sum(row.get(name, 0) for row in by_class.values()) for name in channels),
        class_count=len(by_class),
        columns=tuple(first.columns),
        rows=tuple(tuple(_cell(value) for value in row) for row in first.rows()),
        objects=sum(count for _, _, count in counts),
        verdict=verdict,
        leaks=check is not None and not check.clean,
    )


def leaks_in(index: Path) -> tuple[LeakCheck | None, str]:
    """What the check of a lineage table found, and a sentence about it; None when it could not be made."""
    try:
        return _leaks_in(index, index.stat().st_mtime_ns)
    except ImportError:
        return None, _needs("polars", "data")
    except (OSError, UserError) as error:
        return None, f"leaks can't be looked for: {error}"


@lru_cache(maxsize=16)  # as for charts
def _leaks_in(index: Path, modified: int) -> tuple[LeakCheck, str]:
    from millrace.data.leaks import check_leaks

    check = check_leaks(index)
    return check, check.verdict()


def rejections(run: PipelineRun) -> list[Rejected]:
    """The tables of each Rejects output."""
    return [_rejected(task, port) for task, port in outputs_of(run, Rejects)]


def _rejected(task: TaskRun, port: str) -> Rejected:
    folder = task.output_path(port)
    if not folder.is_dir():
        return Rejected(task.name, port, problem=f"the folder {folder.name} is missing")
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        return Rejected(task.name, port)
    try:
        import polars as pl
    except ImportError:
        return Rejected(task.name, port, problem=_needs("polars", "data"))
    columns = [pl.col(name).cast(pl.String) for name in ("uri", "reason", "detail")]
    try:
        table = pl.concat([pl.read_parquet(file).select(columns) for file in files])
        reasons = table.group_by("reason").len().sort(["len", "reason"], descending=[True, False]).rows()
    except (OSError, pl.exceptions.PolarsError) as error:
        return Rejected(task.name, port, problem=_unreadable(folder, error))
    rows = tuple((_cell(uri), _cell(reason), _cell(detail)) for uri, reason, detail in table.head(_REJECT_ROWS).rows())
    totals = tuple((_cell(reason), count) for reason, count in reasons)
    return Rejected(task.name, port, total=table.height, reasons=totals, rows=rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return str(value)


def _needs(package: str, extra: str) -> str:
    return f"this needs the package {package}, which was not installed: pip install -e '.[{extra}]'"


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} is missing"
    return f"{path.name} can't be read: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
