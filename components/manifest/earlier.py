"""What an earlier manifest of the same source knows, so that only what is new or changed is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from millrace.components.manifest.hashes import hash_digests, hash_listed, hash_texts
from millrace.components.manifest.listing import Source
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.components.manifest.parts import ROWS, Parts
from millrace.components.manifest.spec import ColumnLabels, ManifestParameters
from millrace.data.row_names import table_of
from millrace.errors import DataError, is_disk_full
from millrace.runtime.context import Context
from millrace.runtime.earlier import earlier_folder
from millrace.runtime.schemas import CHANNELS

__all__ = [
    "ASIDE",
    "SETTINGS",
    "TABLES",
    "Earlier",
    "Known",
    "Settings",
    "Table",
    "fingerprints",
    "look_up",
    "open_earlier",
]

SETTINGS = "settings.json"
TABLES = "tables.parquet"

ASIDE = {
    "uri": pl.String(),
    "key": pl.String(),
    "size": pl.Int64(),
    "modified": pl.Int64(),
    "etag": pl.String(),
    "version": pl.String(),
    "content": pl.String(),
    "class_label": pl.String(),
    "group": pl.String(),
    "row": pl.Int64(),
    "row_digest": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}
"""Columns of `aside.parquet`: what was read and is not in the index. `reason` is null where others are the reason."""

_CODES = {name: CHANNELS.index(name) for name in CHANNELS}


class Settings(BaseModel):
    """`settings.json` of a Manifest artifact: what contents and their judgement depend on."""

    formats: tuple[str, ...]
    contents: str
    columns: tuple[str, ...] | None = None
    whole_rows: bool = False
    """Whether rows have a `row_digest`."""
    label_column: str | None = None
    group_column: str | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, parameters: ManifestParameters) -> Settings:
        """Those of a task."""
        formats = tuple(sorted(parameters.formats))
        if not parameters.of_tables:
            return cls(formats=formats, contents=parameters.contents)
        return cls(
            formats=formats,
            contents=parameters.contents,
            columns=None if parameters.columns is None else tuple(sorted(parameters.columns)),
            whole_rows=parameters.columns is not None,
            label_column=parameters.labels.column if isinstance(parameters.labels, ColumnLabels) else None,
            group_column=parameters.split.group_column,
            classes=parameters.classes,
        )


class Pins(NamedTuple):
    """Hashes that rise, and the channel of each."""

    hashes: NDArray[np.uint64]
    channels: NDArray[np.int8]


@dataclass
class Table:
    """A table whose rows an earlier manifest knows."""

    fingerprint: int = 0
    """Of the file; 0 when it is not known."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """First position and number of rows that follow each other and rise."""
    last: int = -1
    """The last row of the last span."""


@dataclass
class Earlier:
    """Objects of an earlier manifest: those of its index first, then those it had set aside."""

    parts: Parts
    """Columns as `ASIDE`."""
    taken: int
    """How many are in its index."""
    comparable: bool
    """Whether it told contents as this task does, so that they need not be read again."""
    channel: NDArray[np.int8]
    content: NDArray[np.uint64]
    row_digest: NDArray[np.uint64] | None
    contents: Pins
    groups: Pins
    tables: dict[str, Table]
    """By key."""
    fingerprint: NDArray[np.uint64]
    _keys: NDArray[np.uint64]
    _order: NDArray[np.int64]

    def find(self, keys: pl.Series) -> NDArray[np.int64]:
        """The position of each key, -1 for those that are not known."""
        hashes = keys.hash().to_numpy()
        at = np.minimum(np.searchsorted(self._keys, hashes), max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return np.full(len(hashes), -1, np.int64)
        return np.where(self._keys[at] == hashes, self._order[at], -1)

    def match(self, objects: Objects) -> Known:
        """What is known of these objects."""
        before = np.full(len(objects), -1, np.int64)
        same = np.zeros(len(objects), np.bool_)
        for start, rows in objects.parts.frames(("key", "size", "modified", "etag", "version")):
            here = slice(start, start + rows.height)
            before[here] = self.find(rows["key"])
            told = fingerprints(rows)
            same[here] = (before[here] >= 0) & (told != 0) & (told == self.fingerprint[before[here]])
        return Known(self, before, same)

    def rows(self, table: Table) -> Iterator[pl.DataFrame]:
        """What is known of a table's rows, in their order: those taken and those set aside are stored apart."""
        spans = [self._chunks(*span) for span in table.spans]
        heads = [(next(chunks), chunks) for chunks in spans]
        while heads:
            last = min(rows["row"][-1] for rows, _ in heads)
            yield pl.concat(rows.filter(pl.col("row") <= last) for rows, _ in heads).sort("row")
            rest = ((rows.filter(pl.col("row") > last), chunks) for rows, chunks in heads)
            left = ((rows if rows.height else next(chunks, None), chunks) for rows, chunks in rest)
            heads = [(rows, chunks) for rows, chunks in left if rows is not None]

    def _chunks(self, start: int, number: int) -> Iterator[pl.DataFrame]:
        for first in range(start, start + number, ROWS):
            yield self.parts.pick(np.arange(first, min(first + ROWS, start + number)), tuple(ASIDE))


class Known(NamedTuple):
    """What an earlier manifest knows of the objects that are listed now."""

    earlier: Earlier
    before: NDArray[np.int64]
    """The position there of each object, -1 for new ones."""
    same: NDArray[np.bool_]
    """Whether the listing tells the same of it as then."""


def open_earlier(parameters: ManifestParameters, source: Source, context: Context) -> Earlier | None:
    """The earlier manifest, if one is given; of another source than this one, that is told.

    Raises:
        DataError: When it is none, or has a content or group in two channels.
    """
    if parameters.previous is None:
        return None
    folder = earlier_folder(parameters.previous, "manifest", context.scratch)
    try:
        comparable = Settings.model_validate_json((folder / SETTINGS).read_bytes()) == Settings.of(parameters)
    except (OSError, ValueError):
        comparable = False
    if not comparable:
        context.log.warning(
            "manifest.previous=%s was made with other formats, columns or labels: all is read again, channels are kept",
            parameters.previous,
        )
    try:
        _compare_sources(folder, parameters, source, context)
        return _read(folder, parameters, context, comparable=comparable)
    except (OSError, pl.exceptions.PolarsError) as error:
        if is_disk_full(error):
            raise
        first = str(error).partition("\n")[0]
        raise DataError(f"manifest.previous={parameters.previous!r} is not a manifest: {first}") from error


def _compare_sources(folder: Path, parameters: ManifestParameters, source: Source, context: Context) -> None:
    if source.dataset:  # an earlier task's: each run has it elsewhere
        return
    prefixes = pl.scan_parquet(folder / "index.parquet", glob=False).select("prefix").head(1).collect()["prefix"]
    if len(prefixes) and prefixes[0] != source.prefix:
        context.log.warning(
            "manifest.previous=%s is of %s, this is %s: objects with the same keys are taken for the same ones",
            parameters.previous,
            prefixes[0],
            source.prefix,
        )


def fingerprints(rows: pl.DataFrame) -> NDArray[np.uint64]:
    """A number for what a listing tells of each object; 0 when that is too little to see a change.

    An ETag stands for the content; where there is none, the version and the time of the last change do. So it is the
    same whether an inventory tells the versions or a listing does not.
    """
    etag = pl.col("etag").str.strip_chars('"')
    version, modified = (pl.when(etag.is_null()).then(pl.col(name)).alias(name) for name in ("version", "modified"))
    told = pl.struct(etag, version, "size", modified).hash()
    silent = etag.is_null() & (pl.col("modified").fill_null(0) == 0)
    return rows.select(told=pl.when(silent).then(0).otherwise(told).cast(pl.UInt64))["told"].to_numpy()


def look_up(pins: Pins, hashes: NDArray[np.uint64]) -> NDArray[np.int8]:
    """The channel of each hash, `NOWHERE` for those without."""
    if not len(pins.hashes):
        return np.full(len(hashes), NOWHERE, np.int8)
    at = np.minimum(np.searchsorted(pins.hashes, hashes), len(pins.hashes) - 1)
    return np.where(pins.hashes[at] == hashes, pins.channels[at], NOWHERE).astype(np.int8)


def _read(folder: Path, parameters: ManifestParameters, context: Context, *, comparable: bool) -> Earlier:
    parts = Parts(context.scratch / "earlier")
    numbers: list[pl.DataFrame] = []
    tables = _tables(folder) if parameters.of_tables and comparable else {}
    taken = 0
    for rows in _stored(folder, ("index.parquet", "aside.parquet")):
        if parameters.of_tables and comparable:
            _add_tables(tables, rows, parts.rows)
        parts.add(rows.select(*ASIDE))
        taken += int(rows["channel"].is_not_null().sum())
        content = hash_listed(rows) if parameters.contents == "listed" else hash_digests(rows["content"])
        channel = rows["channel"].replace_strict(_CODES, default=NOWHERE, return_dtype=pl.Int8)
        group = hash_texts(rows["group"])
        fields = {"key": rows["key"].hash(), "fingerprint": fingerprints(rows)}
        if parameters.columns is not None:
            fields["row_digest"] = hash_digests(rows["row_digest"])
        numbers.append(pl.DataFrame({**fields, "channel": channel, "content": content, "group": group}))
        context.progress(parts.rows, None, "objects of the earlier manifest read")
    whole = pl.concat(numbers)
    keys, channels, contents = (whole[name].to_numpy() for name in ("key", "channel", "content"))
    order = np.argsort(keys, kind="stable")
    return Earlier(
        parts=parts,
        taken=taken,
        comparable=comparable,
        channel=channels,
        content=contents,
        row_digest=whole["row_digest"].to_numpy() if "row_digest" in whole.columns else None,
        contents=_pins(contents, channels, "content", parameters.previous),
        groups=_pins(whole["group"].to_numpy(), channels, "group", parameters.previous),
        tables=tables,
        fingerprint=whole["fingerprint"].to_numpy(),
        _keys=keys[order],
        _order=order,
    )


def _stored(folder: Path, files: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Rows of the earlier manifest with the columns `ASIDE` and `channel`; those of older versions lack some."""
    schema = {**ASIDE, "channel": pl.String()}
    for file in files:
        if file == "aside.parquet" and not (folder / file).is_file():
            continue
        table = pl.scan_parquet(folder / file, glob=False)
        there = table.collect_schema()
        columns = [pl.col(name) if name in there else pl.lit(None, kind).alias(name) for name, kind in schema.items()]
        yield from table.select(columns).collect_batches(chunk_size=ROWS, maintain_order=True)


def _tables(folder: Path) -> dict[str, Table]:
    if not (folder / TABLES).is_file():
        return {}
    rows = pl.read_parquet(folder / TABLES, glob=False)
    return dict(zip(rows["key"], map(Table, fingerprints(rows).tolist()), strict=True))


def _add_tables(tables: dict[str, Table], rows: pl.DataFrame, start: int) -> None:
    """Note where the rows of each table are."""
    told = rows.select("row", file=table_of("key"))
    begins = (pl.col("file") != pl.col("file").shift()) | (pl.col("row") < pl.col("row").shift())
    spans = told.group_by(begins.fill_null(False).cum_sum().alias("span"), maintain_order=True).agg(
        pl.col("file").first(), pl.len(), pl.col("row").first().alias("low"), pl.col("row").last().alias("high")
    )
    for file, number, low, high in spans.select("file", "len", "low", "high").iter_rows():
        table = tables.setdefault(file, Table())
        if table.spans and sum(table.spans[-1]) == start and table.last < low:
            first, before = table.spans.pop()
            table.spans.append((first, before + number))
        else:
            table.spans.append((start, number))
        table.last = high
        start += number


def _pins(hashes: NDArray[np.uint64], channels: NDArray[np.int8], what: str, previous: str | None) -> Pins:
    known = np.flatnonzero((hashes != 0) & (channels != NOWHERE))
    known = known[np.argsort(hashes[known], kind="stable")]
    ordered, places = hashes[known], channels[known]
    first = np.ones(len(known), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    if (places[1:] != places[:-1])[~first[1:]].any():
        raise DataError(
            f"manifest.previous={previous!r} has a {what} in two channels: it can't be taken up; leave previous out"
        )
    return Pins(ordered[first], places[first])
