"""Write the lineage table, the S3 manifests, and what a later manifest starts from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.earlier import ASIDE, Known
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.components.manifest.parts import Parts, write_stream
from millrace.data.row_names import table_of
from millrace.runtime.context import Context
from millrace.runtime.schemas import CHANNELS

__all__ = ["numbered", "write_aside", "write_changes", "write_index", "write_tables"]

_INDEX = {
    "uri": pl.String(),
    "prefix": pl.String(),
    "key": pl.String(),
    "class_label": pl.String(),
    "label": pl.Int64(),
    "channel": pl.String(),
    "size": pl.Int64(),
    "modified": pl.Int64(),
    "etag": pl.String(),
    "version": pl.String(),
    "content": pl.String(),
    "group": pl.String(),
    "dataset_path": pl.String(),
    "row": pl.Int64(),
    "row_digest": pl.String(),
}
_TABLES = {name: _INDEX[name] for name in ("uri", "key", "size", "modified", "etag", "version")}
_CHANGES = {"uri": pl.String(), "change": pl.String()}


def write_index(
    folder: Path,
    objects: Objects,
    channels: NDArray[np.int8],
    classes: tuple[Sequence[str], Sequence[str]],
    prefix: str,
    entries: int,
    context: Context,
) -> None:
    """Write `index.parquet` and the S3 manifests, a part of the objects at a time.

    Args:
        folder: The artifact's.
        objects: In their order.
        channels: Of each, `NOWHERE` for those set aside.
        classes: Their names by number, and in the order of the labels.
        prefix: What URIs begin with.
        entries: Most of one S3 manifest.
        context: For progress.
    """
    names, ordered = classes
    name = pl.Series("class_label", names, dtype=pl.String)
    label = numbered(names, ordered)
    channel = pl.Series("channel", CHANNELS, dtype=pl.String)
    total = int((channels != NOWHERE).sum())

    def parts(manifests: Sequence[_S3Manifest]) -> Iterator[pl.DataFrame]:
        done = 0
        for start, rows in objects.parts.frames():
            mine = channels[start : start + rows.height]
            kept = np.flatnonzero(mine != NOWHERE)
            codes, labels = mine[kept], objects.label[start + kept]
            rows = rows[kept].with_columns(
                name[labels], channel[codes], pl.lit(prefix).alias("prefix"), pl.Series("label", label[labels])
            )
            missing = (pl.lit(None, kind).alias(one) for one, kind in _INDEX.items() if one not in rows.columns)
            rows = rows.with_columns(missing).select(*_INDEX)
            for code, manifest in enumerate(manifests):
                manifest.add(rows.filter(codes == code))
            done += rows.height
            context.progress(done, total, "objects written")
            yield rows

    with (
        _S3Manifest(folder, "train", prefix, entries) as train,
        _S3Manifest(folder, "validation", prefix, entries) as validation,
        _S3Manifest(folder, "test", prefix, entries) as test,
    ):
        write_stream(folder / "index.parquet", parts((train, validation, test)), _INDEX)


def numbered(names: Sequence[str], ordered: Sequence[str]) -> NDArray[np.int64]:
    """The label of each class, -1 for those that are left out."""
    places = {name: place for place, name in enumerate(ordered)}
    return np.array([places.get(name, -1) for name in names], np.int64)


def write_aside(path: Path, objects: Objects, names: Sequence[str], aside: Parts, *, read: bool) -> None:
    """Write what was read but is not in the index, for a later manifest; nothing when no object was read."""

    def rows() -> Iterator[pl.DataFrame]:
        for _, frame in aside.frames(tuple(ASIDE)):
            yield frame
        for start, frame in objects.parts.frames(where=~objects.inside if read else np.zeros_like(objects.inside)):
            out = np.flatnonzero(~objects.inside[start : start + frame.height])
            labels = pl.Series("class_label", names, dtype=pl.String)[objects.label[start + out]]
            frame = frame[out].with_columns(labels).filter(pl.col("content").is_not_null())
            empty = (pl.lit(None, kind).alias(name) for name, kind in ASIDE.items() if name not in frame.columns)
            yield frame.with_columns(empty).select(*ASIDE)

    write_stream(path, rows(), ASIDE)


def write_tables(path: Path, files: Objects) -> None:
    """Write what the listing told of the tables whose rows are the objects, for a later manifest."""
    rows = (frame for _, frame in files.parts.frames(list(_TABLES)))
    write_stream(path, rows, _TABLES)


def write_changes(
    path: Path,
    objects: Objects,
    known: Known,
    *,
    read: bool,
) -> dict[str, int]:
    """Write `changes.parquet`, and count what was added, changed, deleted and left as it was.

    When objects are not read, those are changed of which the listing tells something else, or too little.
    """
    earlier, before, same = known
    old = objects.inside & (before >= 0) & (before < earlier.taken)
    equal = same
    if read and earlier.comparable and len(earlier.content):
        equal = objects.content == earlier.content[before]
        if objects.row_digest is not None and earlier.row_digest is not None:
            equal &= objects.row_digest == earlier.row_digest[before]
    changed = old & ~equal
    added = objects.inside & ~old
    deleted = np.ones(earlier.parts.rows, np.bool_)
    deleted[earlier.taken :] = False
    deleted[before[old]] = False

    def rows() -> Iterator[pl.DataFrame]:
        for start, frame in objects.parts.frames(("uri",), where=added | changed):
            here = slice(start, start + frame.height)
            for mask, change in ((added, "added"), (changed, "changed")):
                yield frame.filter(mask[here]).with_columns(change=pl.lit(change))
        for start, frame in earlier.parts.frames(("uri",), where=deleted):
            yield frame.filter(deleted[start : start + frame.height]).with_columns(change=pl.lit("deleted"))

    write_stream(path, rows(), _CHANGES)
    masks = {"added": added, "changed": changed, "deleted": deleted, "unchanged": old & ~changed}
    return {name: int(mask.sum()) for name, mask in masks.items()}


class _S3Manifest:
    """Writes the files of a channel: `CHANNEL.manifest`, or several when there are more entries than one may have."""

    def __init__(self, folder: Path, channel: str, prefix: str, entries: int) -> None:
        self._folder = folder
        self._channel = channel
        self._prefix = prefix
        self._most = entries
        self._last = ""
        self._written = 0
        self._files = [self._begun(0)]

    def __enter__(self) -> _S3Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if error is not None:
            return
        count = len(self._files)
        for number, path in enumerate(self._files):
            name = self._channel if count == 1 else f"{self._channel}-{number:05d}-of-{count:05d}"
            path.rename(self._folder / f"{name}.manifest")

    def add(self, rows: pl.DataFrame) -> None:
        """Write objects, or the tables in which they are, each once."""
        uris = rows["uri"]
        if rows.height and rows["row"][0] is not None:
            uris = rows.select(table_of("uri"))["uri"].unique(maintain_order=True)
            uris = uris.filter(uris != self._last)
            self._last = str(uris[-1]) if len(uris) else self._last
        entries = uris.str.strip_prefix(self._prefix)
        while len(entries):
            room = self._most - self._written
            if not room:
                self._end()
                self._files.append(self._begun(len(self._files)))
                continue
            text = json.dumps(entries[:room].to_list(), ensure_ascii=False, separators=(",\n", ": "))
            self._stream.write(f",\n{text[1:-1]}")
            self._written += min(room, len(entries))
            entries = entries[room:]

    def _begun(self, number: int) -> Path:
        path = self._folder / f".{self._channel}-{number}.partial"
        self._stream = path.open("w", encoding="utf-8")
        head = json.dumps([{"prefix": self._prefix}], ensure_ascii=False)
        self._stream.write(head[:-1])
        self._written = 0
        return path

    def _end(self) -> None:
        self._stream.write("]\n")
        self._stream.close()
