"""Values of tables' columns, gathered on disk row by row and read back column by column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from millrace.errors import DataError

__all__ = ["Gathered"]

_CELLS = 4_000_000  # of a part


class Gathered:
    """Rows of tables on disk: more than fit in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._parts: list[tuple[Path, frozenset[str], int]] = []
        self._waiting: list[pl.DataFrame] = []
        self._columns: dict[str, str] = {}
        self._complete: frozenset[str] | None = None
        self._read: dict[str, list[pl.Series]] = {}
        self.rows = 0
        """How many there are."""

    def add(self, frame: pl.DataFrame, file: str) -> None:
        """Take rows of a file.

        Raises:
            DataError: When the file has columns that others have not; JSON lines apart.
        """
        if self._waiting and self._waiting[-1].schema != frame.schema:
            self.flush()
        self._waiting.append(frame)
        self.rows += frame.height
        for name in frame.columns:
            self._columns.setdefault(name, file)
        if not file.lower().removesuffix(".gz").endswith(("jsonl", "ndjson", "json")):
            there = frozenset(frame.columns)
            self._complete = there if self._complete is None else self._complete & there
        if sum(part.height for part in self._waiting) * max(frame.width, 1) >= _CELLS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            path = self._folder / f"{len(self._parts):06d}.parquet"
            whole = pl.concat(self._waiting)
            whole.write_parquet(path, compression="lz4", statistics=False)
            self._parts.append((path, frozenset(whole.columns), whole.height))
            self._waiting = []

    def columns(self) -> list[str]:
        """Names, sorted.

        Raises:
            DataError: When one is in some tables only.
        """
        lacking = sorted(set(self._columns) - self._complete) if self._complete is not None else []
        if lacking:
            raise DataError(
                f"{self._columns[lacking[0]]} has the column {lacking[0]!r}, other tables have not: all tables need "
                "the same columns"
            )
        return sorted(self._columns)

    def column(self, name: str) -> Iterator[pl.Series]:
        """The values of a column, part by part; asked for in turn, columns that are small are read several at once."""
        self.flush()
        if name not in self._read:
            following = [one for one in sorted(self._columns) if one >= name]
            group = following[: max(_CELLS // max(self.rows, 1), 1)]
            self._read = {one: [] for one in group}
            for path, there, rows in self._parts:
                found = pl.read_parquet(path, columns=[one for one in group if one in there])
                for one in group:
                    absent = one not in there
                    self._read[one].append(
                        pl.repeat(None, rows, dtype=pl.String, eager=True).alias(one) if absent else found[one]
                    )
        yield from self._read[name]
