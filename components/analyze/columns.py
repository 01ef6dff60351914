"""What becomes of the columns of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl
from pydantic import ValidationError

from millrace.components.analyze.spec import AnalyzeOutputs
from millrace.data.analysis import write_analysis
from millrace.data.fit import Fitted, fit_columns
from millrace.data.gathered import Gathered
from millrace.data.options import TabularData
from millrace.data.rows import LostRows, read_rows
from millrace.errors import ConfigError, DataError, did_you_mean, explain_validation
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import ShardPlan, TabularRecords
from millrace.specs import Table

__all__ = ["analyze_columns"]


def analyze_columns(
    data: TabularData, plan: ShardPlan, objects: pl.DataFrame, outputs: AnalyzeOutputs, context: Context
) -> Result:
    """Learn what becomes of each column; `schema.json`.

    Raises:
        ConfigError: When options name columns that are not there.
        DataError: When the rows can't be read, or no column is left.
    """
    if objects["row"].null_count():
        raise ConfigError(
            f"{objects.filter(pl.col('row').is_null())['uri'][0]} is no row of a table: for kind=tabular "
            "manifest.formats names tables: [csv, tsv, parquet, jsonl]"
        )
    gathered = _gather(objects, plan, context)
    named = _chosen(gathered.columns(), data, plan)
    fitted: list[Fitted] = []
    for columns in gathered.groups(named):
        fitted += fit_columns(columns, data)
        context.progress(len(fitted), len(named), "columns")
    _log(fitted, gathered.rows, context)
    schema = _schema(fitted, plan, gathered.columns())
    write_analysis(outputs.analysis.path, schema, data)
    width = schema.shape[0]
    context.log.info("%d features of %d columns, learnt from %d rows", width, len(schema.columns), gathered.rows)
    left_out = [one.name for one in fitted if one.column is None]
    metrics: dict[str, float] = {"objects": gathered.rows, "features": width, "left_out": len(left_out)}
    return Result(metrics=metrics, charts=(_table(fitted),))


def _gather(objects: pl.DataFrame, plan: ShardPlan, context: Context) -> Gathered:
    gathered = Gathered(context.scratch / "columns")
    lost: Counter[str] = Counter()
    for found in read_rows(objects, None, plan, context.scratch):
        if isinstance(found, LostRows):
            context.log.warning("%d rows are %s: %s", len(found.places), found.reason, found.detail)
            lost[found.detail] += len(found.places)
            continue
        gathered.add(found.frame, found.file)
        context.progress(gathered.rows, objects.height, "rows")
    if lost:
        detail, count = lost.most_common(1)[0]
        raise DataError(
            f"{lost.total()} of {objects.height} training rows can't be read, {count} of them: {detail}. Run manifest "
            "again: the tables were changed since"
        )
    return gathered


def _chosen(there: Sequence[str], data: TabularData, plan: ShardPlan) -> list[str]:
    """Columns to look at, sorted."""
    own = [name for name in (plan.label_column, plan.group_column) if name is not None]
    features = [name for name in there if name not in own]
    known, excluded = set(there), set(data.exclude)
    for name in (*data.columns, *data.exclude):
        if name in own and name in data.columns:
            raise ConfigError(
                f"preprocess.data.columns.{name}: the column holds the class or the group, it is no feature"
            )
        if name not in known:
            key = "columns" if name in data.columns else "exclude"
            raise ConfigError(f"preprocess.data.{key}: there is no column {name!r}: {did_you_mean(name, features)}")
        if name in data.columns and name in excluded:
            raise ConfigError(f"preprocess.data: column {name!r} is both in columns and in exclude")
    return [name for name in features if name not in excluded and (data.others == "auto" or name in data.columns)]


def _log(fitted: Sequence[Fitted], rows: int, context: Context) -> None:
    for one in fitted:
        if one.doubtful and not one.nearly:
            context.log.warning(
                "column %r is %s (%d of %d): to take it, name it in preprocess.data.columns, as hashed for one; "
                "preprocess.data.exclude says that it is not wanted",
                one.name, one.learnt, one.distinct, rows,
            )  # fmt: skip
        elif one.column is None and not one.nearly:
            context.log.info("column %r is %s", one.name, one.learnt)
        if one.nearly:
            context.log.warning(
                "column %r is %s, yet it holds %s: to take it as such, %s",
                one.name, "left out" if one.column is None else f"taken as {_kind(one)}", one.nearly, one.remedy,
            )  # fmt: skip
        if one.unusable:
            context.log.warning("column %r: %d of %d rows have no %s", one.name, one.unusable, rows, _kind(one))


def _schema(fitted: Sequence[Fitted], plan: ShardPlan, there: Sequence[str]) -> TabularRecords:
    columns = tuple(one.column for one in fitted if one.column is not None)
    if not columns:
        left = "; ".join(f"{one.name!r}: {one.learnt}" for one in fitted[:5])
        raise DataError(
            f"no column is left to learn from{f': {left}' if left else ''}: name some in preprocess.data.columns"
        )
    own = {name for name in (plan.label_column, plan.group_column) if name is not None}
    ignored = ({*there} | own) - {column.name for column in columns}
    try:
        return TabularRecords(columns=columns, ignored=tuple(sorted(ignored)), classes=plan.classes)
    except ValidationError as error:
        widest = max(columns, key=lambda column: column.width)
        raise DataError(
            f"{explain_validation(error)}. The widest is {widest.name!r} with {widest.width}: give its kind fewer with "
            "most, minimum, count or buckets, or leave columns out with preprocess.data.exclude"
        ) from error


def _kind(one: Fitted) -> str:
    return one.column.kind if one.column is not None else "-"


def _table(fitted: Sequence[Fitted]) -> Table:
    return Table(
        name="columns",
        title="What becomes of the columns",
        columns=("column", "kind", "missing", "distinct", "features", "learnt from training rows"),
        rows=tuple(
            (
                one.name,
                _kind(one),
                f"{one.missing:.1%}",
                str(one.distinct),
                str(one.column.width if one.column is not None else 0),
                f"{one.learnt}; {one.nearly}" if one.nearly else one.learnt,
            )
            for one in fitted
        ),
    )
