"""Rows of tables as objects: their classes, groups and contents."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from millrace.components.manifest.earlier import ASIDE, Earlier, Table, fingerprints
from millrace.components.manifest.hashes import hash_digests, hash_texts
from millrace.components.manifest.labels import NO_LABEL, UNKNOWN, same_form, unknown_label
from millrace.components.manifest.objects import Names, Objects
from millrace.components.manifest.parts import ROWS, Parts
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import ColumnLabels, ManifestParameters
from millrace.components.manifest.survey import gathered
from millrace.data.contents import as_written, is_written, row_contents, whole_row
from millrace.data.row_names import ROW_NAME
from millrace.data.tables import local_copy, read_batches, table_format, table_schema
from millrace.errors import DataError, did_you_mean
from millrace.runtime.context import Context
from millrace.runtime.storage import parse_source

__all__ = ["read_rows"]

_FILE = {
    "uri": pl.String(),
    "key": pl.String(),
    "modified": pl.Int64(),
    "etag": pl.String(),
    "version": pl.String(),
    "dataset_path": pl.String(),
}
_TOLD = {
    "row": pl.Int64(),
    "content": pl.String(),
    "row_digest": pl.String(),
    "size": pl.Int64(),
    "class_label": pl.String(),
    "group": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


class _Table(NamedTuple):
    """A file that was listed."""

    uri: str
    key: str
    size: int | None
    modified: int | None
    etag: str | None
    version: str | None
    place: str
    dataset_path: str | None
    group: str | None
    label: str | None
    """Class of all rows, when it is not in a column."""
    folder: int
    before: Iterator[pl.DataFrame] | None
    """What an earlier manifest says of its rows, when it has not changed."""


def read_rows(
    files: Objects,
    earlier: Earlier | None,
    parameters: ManifestParameters,
    names: Names,
    rejected: Rejected,
    aside: Parts,
    context: Context,
) -> Objects:
    """The rows of all tables that were listed, those that can be used.

    Args:
        files: The tables.
        earlier: An earlier manifest, from which rows of tables that have not changed are taken.
        parameters: Columns, labels and classes.
        names: Of classes.
        rejected: Takes rows that are empty or without a class.
        aside: Takes what a later manifest need not read again.
        context: For progress.

    Raises:
        DataError: When a table can't be read or lacks a column.
    """
    earlier = earlier if earlier is not None and earlier.comparable else None
    rows = _Rows(parameters, names, rejected, aside, context)
    done, total = 0, _bytes(files)
    for table in _tables(files, earlier, parameters, names):
        seen = 0
        for batch in table.before if table.before is not None else _read(table, parameters, context.scratch):
            rows.add(table, batch)
            seen += int(batch["size"].sum())
            context.progress(done + min(seen, table.size or seen), total or None, "bytes of tables read")
        done += table.size or 0
    return rows.end()


class _Rows:
    """Gathers rows in parts of even height: there may be many small tables."""

    def __init__(
        self, parameters: ManifestParameters, names: Names, rejected: Rejected, aside: Parts, context: Context
    ) -> None:
        self._parts = Parts(context.scratch / "rows")
        self._names = names
        self._rejected = rejected
        self._aside = aside
        self._grouped = parameters.split.group is not None or parameters.split.group_column is not None
        self._whole = parameters.columns is not None
        self._waiting: list[pl.DataFrame] = []
        self._aside_waiting: list[pl.DataFrame] = []
        self._numbers: list[pl.DataFrame] = []

    def add(self, table: _Table, batch: pl.DataFrame) -> None:
        """Take rows with the columns `_TOLD`."""
        file = {name: pl.lit(getattr(table, name), kind) for name, kind in _FILE.items()}
        rows = batch.with_columns(**file, folder=pl.lit(table.folder, pl.Int8))
        rows = rows.with_columns(uri=pl.col("uri") + ROW_NAME, key=pl.col("key") + ROW_NAME)
        bad = rows["reason"].is_not_null()
        if bad.any():
            self._rejected.add(rows.filter(bad))
            self._aside_waiting.append(rows.filter(bad).select(*ASIDE))
            rows = rows.filter(~bad)
        label = self._names.numbers(rows["class_label"])
        others = {"group": hash_texts(rows["group"])} if self._grouped else {}
        if self._whole:
            others["row_digest"] = hash_digests(rows["row_digest"])
        content = hash_digests(rows["content"])
        self._numbers.append(pl.DataFrame({"label": label, "folder": rows["folder"], "content": content, **others}))
        self._waiting.append(rows.select(*_FILE, "size", "row", "content", "row_digest", "group"))
        if sum(part.height for part in self._waiting) >= ROWS:
            self._flush()

    def end(self) -> Objects:
        """All of them."""
        self._flush()
        return gathered(self._parts, self._numbers)

    def _flush(self) -> None:
        if self._waiting:
            self._parts.add(pl.concat(self._waiting))
        if self._aside_waiting:
            self._aside.add(pl.concat(self._aside_waiting))
        self._waiting, self._aside_waiting = [], []


def _bytes(files: Objects) -> int:
    return sum(
        int(rows["size"].filter(pl.Series(files.inside[start : start + rows.height])).sum())
        for start, rows in files.parts.frames(("size",))
    )


def _tables(files: Objects, earlier: Earlier | None, parameters: ManifestParameters, names: Names) -> Iterator[_Table]:
    labels, own = names.all(), _own_columns(parameters)
    for start, rows in files.parts.frames():
        told = fingerprints(rows)
        for at, row in enumerate(rows.iter_rows(named=True)):
            if not files.inside[start + at]:
                continue
            label = files.label[start + at]
            before = earlier.tables.get(row["key"]) if earlier is not None else None
            same = before is not None and told[at] != 0 and before.fingerprint == told[at]
            table = _Table(
                **row,
                label=labels[label] if label >= 0 else None,
                folder=int(files.folder[start + at]),
                before=None,
            )
            if same and earlier is not None and before is not None:
                table = table._replace(before=_remembered(earlier, before, table, own))
            yield table


def _remembered(earlier: Earlier, known: Table, table: _Table, own: Collection[str]) -> Iterator[pl.DataFrame]:
    """Rows as an earlier manifest knows them; a class that only others contradicted is judged anew.

    Classes and groups that are those of the table, not of a column, are told by parameters that may have changed.
    """
    of_table: dict[str, str | None] = {}
    if "labels.column" not in own:
        of_table["class_label"] = table.label
    if "split.group_column" not in own:
        of_table["group"] = table.group
    for rows in earlier.rows(known):
        yield rows.with_columns(pl.lit(told, pl.String).alias(name) for name, told in of_table.items()).select(*_TOLD)


def _read(table: _Table, parameters: ManifestParameters, scratch: Path) -> Iterator[pl.DataFrame]:
    path = local_copy(table.place, scratch, etag=table.etag, size=table.size)
    local = parse_source(table.place)[0] == "file"
    try:
        status = path.stat()
        if status.st_size != (table.size or status.st_size) or (local and status.st_mtime_ns != table.modified):
            raise DataError(f"{table.uri} was changed after it was listed; run again when nothing writes to it")
        first = 0
        for batch in _batches(table, path, parameters):
            yield _judged(batch, first, table, parameters)
            first += batch.height
    except OSError as error:
        raise DataError(f"{table.uri} can't be read: {error.strerror}") from error
    finally:
        if not local:
            path.unlink(missing_ok=True)


def _batches(table: _Table, path: Path, parameters: ManifestParameters) -> Iterator[pl.DataFrame]:
    """The columns that are needed, with messages that name the object and the parameter."""
    own = _own_columns(parameters)
    kind = table_format(table.key) or "csv"  # the listing has left out what is no table
    there = set(table_schema(path, kind, name=table.uri))
    for name, column in (*own.items(), *(("columns", one) for one in parameters.columns or ())):
        if column not in there:
            raise DataError(f"{table.uri} has no column {column!r}: set manifest.{name}: {did_you_mean(column, there)}")
    yield from read_batches(path, kind, name=table.uri)


def _own_columns(parameters: ManifestParameters) -> dict[str, str]:
    """Columns of label and group by the parameter that names them."""
    own: dict[str, str] = {}
    if isinstance(parameters.labels, ColumnLabels):
        own["labels.column"] = parameters.labels.column
    if parameters.split.group_column is not None:
        own["split.group_column"] = parameters.split.group_column
    return own


def _judged(batch: pl.DataFrame, first: int, table: _Table, parameters: ManifestParameters) -> pl.DataFrame:
    """The columns `_TOLD` of rows; contents are equal when all values are, differences of space apart."""
    own = _own_columns(parameters)
    schema = batch.schema  # made anew each time it is asked for
    names = parameters.columns or [name for name in batch.columns if name not in own.values()]
    if not names:
        raise DataError(f"{table.uri} has no columns but those of classes and groups")
    unwritten = [name for name in (*names, *own.values()) if not is_written(schema[name])]
    if unwritten:
        raise DataError(
            f"{table.uri}: values of column {unwritten[0]!r}, of type {schema[unwritten[0]]}, can't be compared: "
            "name other columns in manifest.columns"
        )
    told = row_contents(batch, names)
    whole = [] if parameters.columns is None else whole_row(schema, own.values())
    rows = told.select(
        "empty",
        "size",
        "content",
        row_digest=row_contents(batch, whole)["content"] if whole else pl.lit(None, pl.String),
        row=pl.int_range(first, first + batch.height, dtype=pl.Int64),
        class_label=_column(batch, own.get("labels.column"), table.label),
        group=_column(batch, own.get("split.group_column"), table.group),
    )
    rows = rows.with_columns(same_form(rows["class_label"]))
    unknown = pl.lit(False) if parameters.classes is None else unknown_label(parameters.classes)
    where = f"the column {own['labels.column']!r}" if "labels.column" in own else "its class"
    reason = pl.when("empty").then(pl.lit("empty")).when(NO_LABEL).then(pl.lit("no_label"))
    blank = pl.when("empty").then(pl.lit("all its values are missing or blank"))
    detail = blank.when(NO_LABEL).then(pl.lit(f"{where} is empty")).when(unknown).then(UNKNOWN)
    return rows.with_columns(reason=reason.when(unknown).then(pl.lit("unknown_label")), detail=detail).select(*_TOLD)


def _column(batch: pl.DataFrame, name: str | None, of_file: str | None) -> pl.Series:
    """A column's values without space around them, null where they are empty."""
    if name is None:
        return pl.Series([of_file] * batch.height, dtype=pl.String)
    values = batch.select(as_written(name, batch.schema[name]).str.strip_chars().alias("value"))["value"]
    return values.set(values == "", None)
