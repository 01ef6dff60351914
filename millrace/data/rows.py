"""The rows of tables that a shard names, read from their files: each file once, and no more of it than is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.data.contents import row_contents, whole_row
from millrace.data.row_names import table_of
from millrace.data.tables import TableFormat, check_columns, local_copy, read_batches, table_format, table_schema
from millrace.errors import ConfigError, DataError
from millrace.runtime.schemas import ShardPlan
from millrace.runtime.storage import parse_source
from millrace.specs import Dataset

__all__ = ["FoundRows", "LostRows", "objects_of", "read_rows"]

_COLUMNS = {
    "uri": pl.String,
    "key": pl.String,
    "row": pl.Int64,
    "content": pl.String,
    "row_digest": pl.String,
    "dataset_path": pl.String,
}


class FoundRows(NamedTuple):
    """Some of the rows that were asked for."""

    places: NDArray[np.intp]
    """Which of them, from 0."""
    file: str
    """Where they were read."""
    frame: pl.DataFrame
    """Their columns, in this order."""


class LostRows(NamedTuple):
    """Rows that can't be read."""

    places: NDArray[np.intp]
    reason: str
    """missing or changed."""
    detail: str


def objects_of(
    file: Path, dataset: Dataset | None, task: str, others: Mapping[str, type[pl.DataType]] = MappingProxyType({})
) -> pl.DataFrame:
    """The objects of a shard's table: uri, key, row, digests, and `place`, where each is read, or the file of a row.

    Args:
        file: The table.
        dataset: What was listed, when `manifest` listed the dataset of an earlier task.
        task: Which task asks, for messages.
        others: More columns that are wanted, null where the table has none of the name.

    Raises:
        ConfigError: When some are in a dataset that is not given.
    """
    known: dict[str, type[pl.DataType]] = {**_COLUMNS, **others}
    there = pl.read_parquet_schema(file)  # tables that other tools wrote lack some
    objects = pl.read_parquet(file, columns=[name for name in known if name in there])
    objects = objects.with_columns(pl.lit(None).alias(name) for name in known if name not in there)
    objects = objects.cast(pl.Schema(known))
    whole = table_of("uri")
    if objects["dataset_path"].null_count() == objects.height:
        return objects.with_columns(place=whole)
    if dataset is None:
        raise ConfigError(
            f"the shards name objects of a dataset that an earlier task made, {objects['uri'][0]} for one: {task} "
            "needs the same input `dataset` as manifest"
        )
    inside = pl.lit(f"{dataset.path.absolute().as_uri()}/") + pl.col("dataset_path")
    return objects.with_columns(place=pl.coalesce(inside, whole))


def read_rows(
    objects: pl.DataFrame, columns: Sequence[str] | None, plan: ShardPlan, scratch: Path
) -> Iterator[FoundRows | LostRows]:
    """Read rows of tables, file by file; every one of them is found or lost once.

    Args:
        objects: Rows with `place`, the file, `row`, and `row_digest` and `content`, of which they must still have the
            first that is known.
        columns: What to read of them; None takes all that their file has. JSON lines may lack some: a key that is not
            there is a missing value.
        plan: Tells of which columns `content` is.
        scratch: Where copies of objects go, one at a time.

    Raises:
        DataError: When a table lacks a column, or is no table by its name.
    """
    digest = pl.coalesce("row_digest", "content")
    wanted = objects.select("place", "row", "row_digest", digest=digest, at=pl.int_range(pl.len(), dtype=pl.Int64))
    for (place,), some in wanted.group_by("place", maintain_order=True):
        yield from _of_file(str(place), some.sort("row"), columns, plan, scratch)


def _of_file(
    place: str, wanted: pl.DataFrame, columns: Sequence[str] | None, plan: ShardPlan, scratch: Path
) -> Iterator[FoundRows | LostRows]:
    places = wanted["at"].to_numpy()
    form = _format(place)
    try:
        path = local_copy(place, scratch)
        path.stat()
    except (DataError, FileNotFoundError, NotADirectoryError) as error:
        yield LostRows(places, "missing", str(error))
        return
    try:
        try:
            schema = table_schema(path, form, name=place)
        except DataError as error:
            yield LostRows(places, "changed", str(error))
            return
        if columns is not None and form != "jsonl":
            check_columns(columns, schema.names(), place)
        needed = _Needed(schema, columns, plan, wanted)
        if not set(needed.counted) <= set(schema):
            yield LostRows(places, "changed", f"{place} has lost columns since it was listed")
            return
        batches = read_batches(path, form, needed.all, name=place)
        yield from _picked(batches, place, wanted, needed)
    finally:
        _remove_copy(place, path)


class _Needed:
    """Columns of a file."""

    def __init__(self, schema: pl.Schema, columns: Sequence[str] | None, plan: ShardPlan, wanted: pl.DataFrame) -> None:
        names = schema.names()
        digest = wanted["digest"]
        self.counted: Sequence[str] = ()
        """Of which `digest` is, where it is known."""
        if digest.null_count() < len(digest):
            whole = plan.content_columns is None or wanted["row_digest"].null_count() < len(digest)
            own = (plan.label_column, plan.group_column)
            self.counted = whole_row(schema, own) if whole else plan.content_columns or ()
        self.wanted = list(names) if columns is None else list(columns)
        """For the features."""
        both = {*self.counted, *self.wanted}
        self.all = [name for name in names if name in both] or list(names[:1])


def _picked(
    batches: Iterator[pl.DataFrame], place: str, wanted: pl.DataFrame, needed: _Needed
) -> Iterator[FoundRows | LostRows]:
    """The wanted rows of all rows of a file."""
    rows, places = wanted["row"].to_numpy(), wanted["at"].to_numpy()
    done = first = 0
    while done < len(rows):
        try:
            batch = next(batches, None)
        except DataError as error:  # it was a table when it was listed
            yield LostRows(places[done:], "changed", str(error))
            return
        if batch is None:
            yield LostRows(places[done:], "missing", f"{place} has {first} rows now")
            return
        end = int(np.searchsorted(rows, first + batch.height))
        if end > done:
            yield from _checked(batch[rows[done:end] - first], place, wanted[done:end], needed)
        done, first = end, first + batch.height


def _checked(batch: pl.DataFrame, place: str, wanted: pl.DataFrame, needed: _Needed) -> Iterator[FoundRows | LostRows]:
    places = wanted["at"].to_numpy()
    if needed.counted:
        digest = wanted["digest"]
        same = (row_contents(batch, needed.counted)["content"] == digest) | digest.is_null()
        if not same.all():
            yield LostRows(places[~same.to_numpy()], "changed", f"the row is another than when {place} was listed")
            batch, places = batch.filter(same), places[same.to_numpy()]
    if len(places):
        yield FoundRows(places, place, _complete(batch, needed.wanted))


def _complete(batch: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    there = set(batch.columns)
    absent = [pl.lit(None, pl.String).alias(name) for name in columns if name not in there]
    return (batch.with_columns(absent) if absent else batch)[list(columns)]


def _format(place: str) -> TableFormat:
    found = table_format(place)
    if found is None:
        raise DataError(f"{place} is no table by its name: .csv, .tsv, .parquet and .jsonl are known")
    return found


def _remove_copy(place: str, path: Path) -> None:
    if parse_source(place)[0] != "file":
        path.unlink(missing_ok=True)
