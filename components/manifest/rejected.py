"""How objects are set aside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from millrace.components.manifest.objects import Objects
from millrace.components.manifest.parts import ROWS, Parts

__all__ = ["Rejected"]

_COLUMNS = ("uri", "reason", "detail")
_CHUNK = 500_000  # objects that are looked up at a time


class Rejected:
    """What has been set aside so far, in the order in which it was found: on disk, but for what messages need.

    Args:
        folder: A new one, for it.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = Parts(folder)
        self._waiting: list[pl.DataFrame] = []
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}

    def take(self, rows: pl.DataFrame, where: pl.Expr, reason: str, detail: str | pl.Expr) -> pl.DataFrame:
        """The rows for which `where` does not hold; the others are set aside."""
        bad = rows.select(bad=where.fill_null(False))["bad"]
        if not bad.any():
            return rows
        told = pl.lit(detail) if isinstance(detail, str) else detail
        self.add(rows.filter(bad).select("uri", reason=pl.lit(reason), detail=told))
        return rows.filter(~bad)

    def take_out(self, objects: Objects, rows: pl.DataFrame, reason: str) -> None:
        """Set objects aside that are known by position.

        Args:
            objects: All of them; these are marked.
            rows: `position`, rising, and `detail`; where `{}` is in a detail, the URI of the object at the position
                `other` comes.
            reason: Why.
        """
        objects.inside[rows["position"].to_numpy()] = False
        for chunk in rows.iter_slices(_CHUNK):
            named = chunk["position"] if "other" not in rows.columns else chunk["position"].append(chunk["other"])
            positions = np.unique(named.to_numpy())
            uris = objects.parts.pick(positions, ["uri"])["uri"]
            told = chunk["detail"]
            if "other" in rows.columns:
                other = uris[np.searchsorted(positions, chunk["other"].to_numpy())]
                told = pl.select(pl.lit(told).str.replace("{}", pl.lit(other), literal=True)).to_series()
            mine = uris[np.searchsorted(positions, chunk["position"].to_numpy())]
            self.add(pl.DataFrame({"uri": mine, "detail": told}).with_columns(reason=pl.lit(reason)))

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have the columns uri, reason and detail."""
        if rows.is_empty():
            return
        self._waiting.append(rows.select(_COLUMNS))
        for reason, number, uri, detail in (
            rows.group_by("reason", maintain_order=True)
            .agg(pl.len(), pl.col("uri").first(), pl.col("detail").first())
            .iter_rows()
        ):
            self._counts[reason] += number
            self._first.setdefault(reason, (uri, detail))
        if sum(part.height for part in self._waiting) >= ROWS:
            self._flush()

    @property
    def total(self) -> int:
        """How many."""
        return self._counts.total()

    def summary(self) -> str:
        """`12 hidden, 3 wrong_type`, the most frequent first."""
        counts = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{number} {reason}" for reason, number in counts)

    def examples(self) -> str:
        """A line for the first object of each reason."""
        return "\n".join(f"  {uri}: {reason}: {detail}" for reason, (uri, detail) in self._first.items())

    def write(self, path: Path) -> None:
        """Write the table of all."""
        self._flush()
        self._parts.write(path, dict.fromkeys(_COLUMNS, pl.String()))

    def _flush(self) -> None:
        if self._waiting:
            self._parts.add(pl.concat(self._waiting))
            self._waiting = []
