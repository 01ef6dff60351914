"""The class of each object, and the channel folder it lies in."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from millrace.components.manifest.rows import Rejected
from millrace.components.manifest.spec import CsvLabels, PrefixLabels, RegexLabels
from millrace.errors import DataError
from millrace.runtime.storage import parse_source, read

__all__ = ["channels_below", "find_channels", "label_by_pattern", "label_by_prefix", "label_by_table", "matched"]

_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def find_channels(rows: pl.DataFrame, labels: PrefixLabels | RegexLabels | CsvLabels) -> pl.DataFrame:
    """Add `folder`: the channel whose folder at the first level holds the object, else null.

    With labels by prefix, a folder is a channel only when folders of classes are inside: pictures that
    lie in `train` itself are of the class `train`, which is a thing to take pictures of.
    """
    parts = pl.col("key").str.split("/")
    name = pl.when(parts.list.len() > 1).then(parts.list.first().str.to_lowercase())
    rows = rows.with_columns(name.replace_strict(_FOLDERS, default=None, return_dtype=pl.String).alias("folder"))
    if isinstance(labels, PrefixLabels):
        deep = rows.filter(pl.col("folder").is_not_null() & (parts.list.len() > 2))
        if deep.is_empty():
            return rows.with_columns(pl.lit(None, dtype=pl.String).alias("folder"))
    return rows


def channels_below(rows: pl.DataFrame) -> str | None:
    """The only folder at the first level, when folders of channels are in it: an archive's own folder, mostly."""
    parts = pl.col("key").str.split("/")
    inside = rows.filter(parts.list.len() > 2)  # a file beside the folder, or in it, changes nothing
    top = inside.select(top=parts.list.first(), second=parts.list.get(1).str.to_lowercase()).unique()
    if top["top"].n_unique() != 1 or not top["second"].is_in(list(_FOLDERS)).sum() >= 2:
        return None
    return str(top["top"][0])


def label_by_prefix(rows: pl.DataFrame, rejected: Rejected) -> pl.DataFrame:
    """Add `class_label`: the last folder above the object and below its channel's folder."""
    parts = pl.col("key").str.split("/")
    depth = parts.list.len() - pl.col("folder").is_not_null().cast(pl.UInt32)
    label = pl.when(depth > 1).then(parts.list.get(-2, null_on_oob=True))
    return _labelled(rows.with_columns(label.alias("class_label")), rejected, "it lies in no class folder")


def label_by_pattern(rows: pl.DataFrame, labels: RegexLabels, rejected: Rejected) -> pl.DataFrame:
    """Add `class_label`: what the pattern finds in the key."""
    found = pl.Series("class_label", matched(rows["key"], labels.pattern, "label"), dtype=pl.String)
    return _labelled(rows.with_columns(found), rejected, "labels.pattern finds nothing in its key")


def label_by_table(
    rows: pl.DataFrame, labels: CsvLabels, source: str, rejected: Rejected, *, inside: bool
) -> pl.DataFrame:
    """Add `class_label`: what the table says of the key or URI.

    Args:
        rows: Objects; the table itself may be among them.
        labels: Where the table is.
        source: What was listed.
        rejected: Takes objects that the table does not name, and rows that name no object.
        inside: Whether the table must be below the source.

    Raises:
        DataError: When the table can't be read, or gives two labels to one object.
    """
    uri, data = _find_table(labels.path, source, inside=inside)
    table = _parse_table(data, labels)
    rows = rows.filter(pl.col("place") != uri)
    known = pl.concat([rows.select(name=column, uri="uri") for column in ("key", "uri")]).unique()
    resolved = table.join(known, on="name", how="left", maintain_order="left")
    missing = resolved.filter(pl.col("uri").is_null()).unique("name")
    if missing.height == table["name"].n_unique():
        raise DataError(
            f"{labels.path}: no value of the column {labels.object_column!r} is a key below {source} or a URI; "
            f"the first value is {table['name'][0]!r}, the first key {_first(rows['key'])!r}"
        )
    pairs = resolved.filter(pl.col("uri").is_not_null()).select("uri", "class_label").unique()
    _one_label_each(pairs, labels)
    detail = pl.lit(f"named in {labels.path}, but there is no such object below the source, or it was set aside")
    rejected.add(missing.select(key="name", uri="name").with_columns(reason=pl.lit("missing"), detail=detail))
    joined = rows.join(pairs, on="uri", how="left", maintain_order="left")
    return _labelled(joined, rejected, f"it is not named in {labels.path}, or without a label")


def matched(keys: Iterable[str], pattern: str, group: str) -> list[str | None]:
    """What the named group of a pattern finds in each key."""
    compiled = re.compile(pattern)
    return [found[group] if (found := compiled.search(key)) else None for key in keys]


def _labelled(rows: pl.DataFrame, rejected: Rejected, detail: str) -> pl.DataFrame:
    label = pl.col("class_label")
    rows = rejected.take(rows, label.is_null() | (label.str.strip_chars() == ""), "no_label", detail)
    # macOS writes accents apart from their letters; the same name must be the same class everywhere
    names = {name: unicodedata.normalize("NFC", name) for name in rows["class_label"].unique().to_list()}
    return rows.with_columns(label.replace(names)) if names else rows


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


def _one_label_each(pairs: pl.DataFrame, labels: CsvLabels) -> None:
    several = pairs.group_by("uri").agg(pl.col("class_label").sort()).filter(pl.col("class_label").list.len() > 1)
    if several.height:
        uri, given = several.sort("uri").row(0)
        raise DataError(
            f"{labels.path} gives two labels to one object, {uri}: {given}"
            + (f", and to {several.height - 1} more" if several.height > 1 else "")
            + "; an object has one class: mend the table"
        )


def _first(values: pl.Series) -> str:
    return str(values[0]) if len(values) else ""
