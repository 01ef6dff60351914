"""Tables of objects, and how rows are set aside."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

__all__ = ["LISTED", "Rejected"]

LISTED = {
    "uri": pl.String,
    "key": pl.String,
    "size": pl.Int64,
    "modified": pl.Int64,
    "etag": pl.String,
    "version": pl.String,
}
"""Columns of a listing."""

_COLUMNS = ("key", "uri", "reason", "detail")


@dataclass
class Rejected:
    """What has been set aside so far."""

    _parts: list[pl.DataFrame] = field(default_factory=list)

    def take(self, rows: pl.DataFrame, where: pl.Expr, reason: str, detail: str | pl.Expr) -> pl.DataFrame:
        """The rows for which `where` does not hold; the others are set aside."""
        told = pl.lit(detail) if isinstance(detail, str) else detail
        judged = rows.select("key", "uri", bad=where, reason=pl.lit(reason), detail=told)  # before any row is gone
        self._parts.append(judged.filter("bad").select(_COLUMNS))
        return rows.filter(~judged["bad"])

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have the columns key, uri, reason and detail."""
        self._parts.append(rows.select(_COLUMNS))

    def table(self) -> pl.DataFrame:
        """All of them, by key."""
        empty = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String))
        return pl.concat([empty, *self._parts]).sort(_COLUMNS)

    def summary(self) -> str:
        """`12 hidden, 3 wrong_type`, the most frequent first."""
        counts = self.table().group_by("reason").len().sort("len", "reason", descending=[True, False])
        return ", ".join(f"{number} {reason}" for reason, number in counts.iter_rows())

    def examples(self) -> str:
        """A line for the first object of each reason."""
        first = self.table().unique("reason", keep="first", maintain_order=True)
        return "\n".join(f"  {uri}: {reason}: {detail}" for _, uri, reason, detail in first.iter_rows())
