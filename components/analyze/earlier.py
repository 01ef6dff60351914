"""An earlier analysis, taken as it is."""

from __future__ import annotations

from millrace.components.analyze.spec import AnalyzeInputs, AnalyzeOutputs
from millrace.data.analysis import read_analysis, write_analysis
from millrace.data.options import TabularData, TextData
from millrace.data.rows import objects_of
from millrace.data.tables import local_copy, table_format, table_schema
from millrace.errors import ConfigError, DataError, did_you_mean
from millrace.runtime.context import Context, Result
from millrace.runtime.earlier import earlier_folder
from millrace.runtime.schemas import VOCABULARY, ShardPlan, TabularRecords, TextRecords
from millrace.runtime.storage import parse_source
from millrace.runtime.texts import load_vocabulary
from millrace.specs import Table

__all__ = ["keep_analysis"]

_FILES = ("schema.json", "options.json", VOCABULARY)


def keep_analysis(
    previous: str,
    data: TextData | TabularData,
    plan: ShardPlan,
    inputs: AnalyzeInputs,
    outputs: AnalyzeOutputs,
    context: Context,
) -> Result:
    """Write an earlier analysis as this one's, when it fits the options, the classes and the columns.

    Raises:
        ConfigError: When it does not fit.
        DataError: When it, or the first table, can't be read.
    """
    folder = earlier_folder(previous, "analysis", context.scratch, names=_FILES)
    if not (folder / "schema.json").is_file():
        raise DataError(f"analyze.previous: {previous!r} holds no analysis, it has no schema.json")
    if isinstance(data, TabularData):
        columns = read_analysis(folder, data, plan.classes, TabularRecords, earlier=True)
        _check_columns(columns, plan, inputs, context)
        write_analysis(outputs.analysis.path, columns, data)
        width, charts = columns.shape[0], _table(columns)
    else:
        texts = read_analysis(folder, data, plan.classes, TextRecords, earlier=True)
        load_vocabulary(folder, texts)
        (outputs.analysis.path / VOCABULARY).write_bytes((folder / VOCABULARY).read_bytes())
        write_analysis(outputs.analysis.path, texts, data)
        width, charts = texts.vocabulary_size, ()
    context.log.info("the analysis is that of %s, nothing is learnt anew", previous)
    return Result(metrics={"objects": 0, "features": width, "left_out": 0}, charts=charts)


def _check_columns(schema: TabularRecords, plan: ShardPlan, inputs: AnalyzeInputs, context: Context) -> None:
    """Of the first table: what is wrong with others is found where they are read."""
    names = [column.name for column in schema.columns]
    own = {"class": plan.label_column, "group": plan.group_column}
    for what, name in own.items():
        if name in names:
            raise ConfigError(
                f"analyze.previous took column {name!r} for a feature, here it holds the {what}: leave "
                "analyze.previous out to learn anew"
            )
    there = _first_columns(plan, inputs, context)
    if there is None:
        return
    known = set(there)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"analyze.previous knows column {name!r}, which the tables lack: {did_you_mean(name, there)}; leave "
                "analyze.previous out to learn anew"
            )
    if new := sorted(known - {*names, *schema.ignored, *own.values()}):
        context.log.info("%d columns are no features of the earlier analysis: %s", len(new), f"{new!s:.500}")


def _first_columns(plan: ShardPlan, inputs: AnalyzeInputs, context: Context) -> list[str] | None:
    """The columns of the first table; None when it is gone, or need not name them all, as JSON lines."""
    files = [
        inputs.shards.path / "shards" / item.file for items in plan.shards.values() for item in items if item.objects
    ]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise DataError(f"{inputs.shards.path} has no shards; give the whole output of the shard component")
    place = str(objects_of(file, inputs.dataset, "analyze")["place"][0])
    form = table_format(place)
    if form is None or form == "jsonl":
        return None
    path = local_copy(place, context.scratch)
    try:
        return table_schema(path, form, name=place).names()
    finally:
        if parse_source(place)[0] != "file":
            path.unlink(missing_ok=True)


def _table(schema: TabularRecords) -> tuple[Table, ...]:
    table = Table(
        name="columns",
        title="What becomes of the columns, as the earlier analysis has it",
        columns=("column", "kind", "features"),
        rows=tuple((column.name, column.kind, str(column.width)) for column in schema.columns),
    )
    return (table,)
