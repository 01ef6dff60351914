"""The class of each object."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from millrace.components.manifest.listing import Source
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import CsvLabels, ManifestParameters, PrefixLabels, RegexLabels
from millrace.errors import DataError
from millrace.runtime.storage import parse_source, read

__all__ = ["NO_LABEL", "UNKNOWN", "Labels", "matched", "same_form", "unknown_label"]

NO_LABEL = pl.col("class_label").is_null() | (pl.col("class_label").str.strip_chars() == "")
"""Whether a row has no class."""
UNKNOWN = pl.format("label '{}' is none of manifest.classes", pl.col("class_label").str.slice(0, 100))
"""What is said of a row with another class."""


def unknown_label(classes: Sequence[str]) -> pl.Expr:
    """Whether a row's class is none of those that are wanted."""
    return ~pl.col("class_label").is_in(same_form(pl.Series(classes, dtype=pl.String)).to_list())


def same_form(labels: pl.Series) -> pl.Series:
    """macOS writes accents apart from their letters; the same name must be the same class everywhere."""
    names = {name: unicodedata.normalize("NFC", name) for name in labels.drop_nulls().unique()}
    changed = {name: normal for name, normal in names.items() if name != normal}
    return labels.replace(changed) if changed else labels


class Labels:
    """Tells classes, as `manifest.labels` says; of a table that names them, what it has told is remembered.

    Args:
        parameters: Of the task.
        source: What is listed.
        rejected: Takes objects without a class.

    Raises:
        DataError: When a table of labels can't be read.
    """

    def __init__(self, parameters: ManifestParameters, source: Source, rejected: Rejected) -> None:
        self._labels = parameters.labels
        self._rejected = rejected
        self._classes = parameters.classes
        self._first = ""
        self._table = _LabelTable(self._labels, source) if isinstance(self._labels, CsvLabels) else None

    def tell(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `class_label`, for objects with `key`, `uri`, `place`, `depth` and `folder`; null for rows of tables."""
        if rows.height:
            self._first = self._first or str(rows["key"][0])
        if self._table is not None:
            detail = f"it is not named in {self._table.path}, or without a label"
            return self._labelled(self._table.tell(rows), detail)
        if isinstance(self._labels, PrefixLabels):
            above = pl.when(pl.col("depth") > 0).then(pl.col("key").str.split("/").list.get(-2, null_on_oob=True))
            return self._labelled(rows.with_columns(class_label=above), "it lies in no class folder")
        if isinstance(self._labels, RegexLabels):
            found = pl.Series("class_label", matched(rows["key"], self._labels.pattern, "label"), dtype=pl.String)
            return self._labelled(rows.with_columns(found), "labels.pattern finds nothing in its key")
        return rows.with_columns(class_label=pl.lit(None, dtype=pl.String))

    def end(self) -> None:
        """Judge the table of labels when all objects have been told.

        Raises:
            DataError: When it names none of them, or gives two labels to one.
        """
        if self._table is not None:
            self._table.end(self._first, self._rejected)

    def _labelled(self, rows: pl.DataFrame, detail: str) -> pl.DataFrame:
        rows = rows.with_columns(same_form(rows["class_label"]))
        rows = self._rejected.take(rows, NO_LABEL, "no_label", detail)
        if self._classes is None:
            return rows
        return self._rejected.take(rows, unknown_label(self._classes), "unknown_label", UNKNOWN)


class _LabelTable:
    """A table of labels in memory, in which objects are found by hashes of their names."""

    def __init__(self, labels: CsvLabels, source: Source) -> None:
        self.path = labels.path
        self._column = labels.object_column
        self._place = source.place
        self._uri, data = _find_table(labels.path, source.place, inside=source.dataset)
        table = _parse_table(data, labels)
        self._uris = bool(table["name"].str.contains("://", literal=True).any())
        table = table.with_columns(hash=pl.col("name").hash()).sort("hash", maintain_order=True)
        self._table = table.unique("hash", keep="first", maintain_order=True)
        self._hashes = self._table["hash"].to_numpy()
        several = (
            table.group_by("hash").agg(pl.col("class_label").unique()).filter(pl.col("class_label").list.len() > 1)
        )
        self._several = several["hash"].sort().to_numpy()
        self._all = table
        self._found = np.zeros(len(self._hashes), np.bool_)
        self._contrary: list[tuple[str, list[str]]] = []

    def tell(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.filter(pl.col("place") != self._uri)
        label = self._look_up(rows, "key")
        if self._uris:
            other = self._look_up(rows, "uri")
            for at in (label.is_not_null() & other.is_not_null() & (label != other)).arg_true().to_list():
                self._contrary.append((rows["uri"][at], sorted((label[at], other[at]))))
            label = label.fill_null(other)
        return rows.with_columns(label.alias("class_label"))

    def end(self, first_key: str, rejected: Rejected) -> None:
        if not self._found.any():
            raise DataError(
                f"{self.path}: no value of the column {self._column!r} is a key below {self._place} or a URI; "
                f"the first value is {self._all['name'][0]!r}, the first key {first_key!r}"
            )
        if self._contrary:
            uri, given = self._contrary[0]
            raise DataError(
                f"{self.path} gives two labels to one object, {uri}: {given}"
                + (f", and to {len(self._contrary) - 1} more" if len(self._contrary) > 1 else "")
                + "; an object has one class: mend the table"
            )
        detail = pl.lit(f"named in {self.path}, but there is no such object below the source, or it was set aside")
        missing = self._table.filter(pl.Series(~self._found)).sort("name")
        rejected.add(missing.select(uri="name", reason=pl.lit("missing"), detail=detail))

    def _look_up(self, rows: pl.DataFrame, column: str) -> pl.Series:
        hashes = rows[column].hash().to_numpy()
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        there = self._hashes[at] == hashes
        self._found[at[there]] = True
        for row in np.flatnonzero(np.isin(hashes, self._several)).tolist():
            given = self._all.filter(pl.col("hash") == hashes[row])["class_label"].unique().sort()
            self._contrary.append((rows["uri"][row], given.to_list()))
        return self._table["class_label"][at].zip_with(pl.Series(there), pl.Series([None], dtype=pl.String))


def matched(keys: Iterable[str], pattern: str, group: str) -> list[str | None]:
    """What the named group of a pattern finds in each key."""
    compiled = re.compile(pattern)
    return [found[group] if (found := compiled.search(key)) else None for key in keys]


def _find_table(path: str, source: str, *, inside: bool) -> tuple[str, bytes]:
    """URI and bytes of the table: below the source if it is there, else at the path or URI itself."""
    if "://" not in path and not path.startswith(("/", "~")):
        scheme, place = parse_source(source)
        beside = (Path(place) / path).as_uri() if scheme == "file" else f"{scheme}://{place.rstrip('/')}/{path}"
        with contextlib.suppress(DataError):
            return beside, read(beside)
    if inside:
        raise DataError(f"labels.path={path!r} is not the key of an object in the dataset")
    scheme, place = parse_source(path)
    return Path(place).as_uri() if scheme == "file" else path, read(path)


def _parse_table(data: bytes, labels: CsvLabels) -> pl.DataFrame:
    try:
        table = pl.read_csv(data, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(
            f"{labels.path} is not a CSV file in UTF-8 with a header and commas between values: {first}"
        ) from error
    for column in (labels.object_column, labels.label_column):
        if column not in table.columns:
            raise DataError(f"{labels.path} has no column {column!r}; it has: {', '.join(table.columns)}")
    name = pl.col(labels.object_column).str.strip_chars().str.strip_prefix("./")
    chosen = table.select(name=name, class_label=pl.col(labels.label_column).str.strip_chars())
    chosen = chosen.filter(pl.col("name").is_not_null())
    if chosen.is_empty():
        raise DataError(f"{labels.path} has no rows")
    return chosen
