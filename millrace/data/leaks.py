"""Prove that no object, no content and no group is in two channels of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS
from millrace.specs import Frozen

__all__ = ["KINDS", "Leak", "LeakCheck", "LeakKind", "check_leaks"]

LeakKind = Literal["object", "content", "group"]
KINDS: tuple[LeakKind, ...] = ("object", "content", "group")

_IN_MEMORY = 32_000_000
_PART = 500_000
_CONFIRMED = 100_000
_LISTED = ("etag", "size", "row")


class Leak(Frozen):
    """One thing that is in two channels or three."""

    kind: LeakKind
    value: str
    """The object's URI, the content's digest, or the group."""
    objects: dict[str, str]
    """The first object of each channel that has it, by URI."""


class LeakCheck(Frozen):
    """What was looked at, and what was found."""

    objects: int = Field(ge=0)
    """Number of objects looked at."""
    known: dict[LeakKind, int]
    """How many of them have a URI, a known content, a group."""
    leaks: dict[LeakKind, int]
    """How many URIs, contents and groups are in more than one channel."""
    examples: tuple[Leak, ...] = ()
    """The first ones of each kind."""

    @property
    def clean(self) -> bool:
        """Whether there are none."""
        return not any(self.leaks.values())

    def verdict(self) -> str:
        """One sentence for people."""
        if not self.clean:
            found = ", ".join(f"{_counted(number, kind)}" for kind, number in self.leaks.items() if number)
            return f"leaks: in more than one channel there are {found}"
        unknown = self.objects - self.known["content"]
        told = f"; the contents of {unknown} are not known" if unknown else ""
        groups = " and no group" if self.known["group"] else ""
        what = f"no object, no content{groups}" if groups else "no object and no content"
        return f"no leaks: of {self.objects} objects {what} is in more than one channel{told}"

    def details(self) -> str:
        """A line for each example."""
        return "\n".join(
            f"  {leak.kind} {leak.value}: {'; '.join(f'{name}: {uri}' for name, uri in leak.objects.items())}"
            for leak in self.examples
        )


def check_leaks(index: Path, *, examples: int = 5, in_memory: int = _IN_MEMORY) -> LeakCheck:
    """Look for objects, contents and groups that are in more than one channel.

    The values are compared by 62 bits of a hash, eight bytes an object; those that look alike are then compared
    whole. Where a content's digest is not known, objects of the same ETag and size count as equal.

    Args:
        index: `index.parquet` of a Manifest.
        examples: Most leaks of each kind that are told.
        in_memory: Objects compared at a time; more are compared in several passes over the table.

    Raises:
        DataError: When the table can't be read.
    """
    try:
        table = pl.scan_parquet(index, glob=False)
        columns = table.collect_schema().names()
        objects = table.select(pl.len()).collect().item()
        values = {kind: _value(kind, columns) for kind in KINDS}
        known: dict[LeakKind, int] = {kind: _count(table, values[kind]) for kind in KINDS}
        passes = -(-objects // in_memory)
        shared = {kind: _shared(table, values[kind], objects, passes if known[kind] else 0) for kind in KINDS}
        found = {kind: _confirmed(table, values[kind], hashes) for kind, hashes in shared.items()}
        told = (_example(table, values[kind], kind, value) for kind in KINDS for value in found[kind][1][:examples])
        return LeakCheck(
            objects=objects, known=known, leaks={kind: found[kind][0] for kind in KINDS}, examples=tuple(told)
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{index} is not the table of a manifest: {type(error).__name__}: {error}") from error


def _value(kind: LeakKind, columns: list[str]) -> pl.Expr:
    """What must not be in two channels; null where it is not known."""
    name = {"object": "uri"}.get(kind, kind)
    value = pl.col(name).cast(pl.String) if name in columns else pl.lit(None, dtype=pl.String)
    if kind == "content" and all(column in columns for column in _LISTED):
        listed = pl.when(pl.col("row").is_null()).then(pl.format("etag {} of {} bytes", "etag", "size"))
        return pl.coalesce(value, listed)
    return value


def _count(table: pl.LazyFrame, value: pl.Expr) -> int:
    return int(table.select(value.count()).collect(engine="streaming").item())


def _shared(table: pl.LazyFrame, value: pl.Expr, objects: int, passes: int) -> NDArray[np.uint64]:
    """Hashes of the values that are in more than one channel, uint64 with the last two bits 0.

    The table is read in parts: the streaming engine would hold many more of its strings.
    """
    found: list[NDArray[np.uint64]] = []
    channel = pl.col("channel").replace_strict({name: number for number, name in enumerate(CHANNELS)}, default=3)
    wanted = table.select(hash=value.hash(0), channel=channel.cast(pl.UInt8), known=value.is_not_null())
    for number in range(passes):
        parts: list[NDArray[np.uint64]] = []
        for begin in range(0, objects, _PART):
            rows = wanted.slice(begin, _PART).filter("known").collect()
            hashes = rows["hash"].to_numpy() & ~np.uint64(3)
            mine = hashes // 4 % passes == number
            parts.append((hashes | rows["channel"].to_numpy())[mine])
        keys = np.concatenate(parts)
        keys.sort()
        parted = (keys[1:] >> 2 == keys[:-1] >> 2) & (keys[1:] != keys[:-1])
        found.append(np.unique(keys[1:][parted] & ~np.uint64(3)))
    return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)


def _confirmed(table: pl.LazyFrame, value: pl.Expr, hashes: NDArray[np.uint64]) -> tuple[int, list[str]]:
    """How many values are really in two channels, and the first ones; hashes alone count when there are very many."""
    if not len(hashes):
        return 0, []
    looked_at = pl.Series("hash", hashes[:_CONFIRMED])
    rows = table.select(value.alias("value"), "channel").filter(
        (pl.col("value").hash(0) // 4 * 4).is_in(looked_at.implode())
    )
    parted = rows.group_by("value").agg(pl.col("channel").n_unique()).filter(pl.col("channel") > 1).select("value")
    values = parted.collect(engine="streaming")["value"].sort().to_list()
    return len(values) + max(0, len(hashes) - _CONFIRMED), values


def _example(table: pl.LazyFrame, value: pl.Expr, kind: LeakKind, wanted: str) -> Leak:
    rows = table.filter(value == wanted).group_by("channel").agg(pl.col("uri").first()).collect(engine="streaming")
    by_channel = dict(rows.iter_rows())
    return Leak(kind=kind, value=wanted, objects={name: by_channel[name] for name in CHANNELS if name in by_channel})


def _counted(number: int, kind: str) -> str:
    return f"{number} {kind}" + ("s" if number > 1 else "")
