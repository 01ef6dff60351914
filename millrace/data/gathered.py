"""Values of tables' columns, gathered on disk row by row and read back column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.selectors import by_name

from millrace.errors import DataError

__all__ = ["Gathered"]

_CELLS = 4_000_000  # of a part


class Gathered:
    """Rows of tables on disk: more than fit in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._parts: list[tuple[Path | pl.DataFrame, frozenset[str], int]] = []
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
            self._write()
        self._waiting.append(frame)
        self.rows += frame.height
        for name in frame.columns:
            self._columns.setdefault(name, file)
        if not file.lower().removesuffix(".gz").endswith(("jsonl", "ndjson", "json")):
            there = frozenset(frame.columns)
            self._complete = there if self._complete is None else self._complete & there
        if sum(part.height for part in self._waiting) * max(frame.width, 1) >= _CELLS:
            self._write()

    def _write(self) -> None:
        path = self._folder / f"{len(self._parts):06d}.parquet"
        whole = pl.concat(self._waiting)
        whole.write_parquet(path, compression="lz4", statistics=False)
        self._parts.append((path, frozenset(whole.columns), whole.height))
        self._waiting = []

    def _end(self) -> None:
        """Take what waits for a part, too: it need not be written."""
        if self._waiting:
            last = pl.concat(self._waiting)
            self._parts.append((last, frozenset(last.columns), last.height))
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
        """The values of a column, part by part. No rows may be added after this."""
        self._end()
        if name not in self._read:
            self._read = self._columns_of([name])
        yield from self._read[name]

    def groups(self, names: Sequence[str]) -> Iterator[dict[str, list[pl.Series]]]:
        """The values of columns, part by part, some million at a time. No rows may be added after this."""
        self._end()
        size = max(_CELLS // max(self.rows, 1), 1)
        for start in range(0, len(names), size):
            yield self._columns_of(names[start : start + size])

    def _columns_of(self, names: Sequence[str]) -> dict[str, list[pl.Series]]:
        read: dict[str, list[pl.Series]] = {name: [] for name in names}
        for part, there, rows in self._parts:
            some = [name for name in names if name in there]
            found = part[some] if isinstance(part, pl.DataFrame) else _read(part, some)
            absent = pl.repeat(None, rows, dtype=pl.String, eager=True)
            for name, parts in read.items():
                parts.append(found[name] if name in there else absent.alias(name))
        return read


def _read(path: Path, names: Sequence[str]) -> pl.DataFrame:
    return pl.scan_parquet(path, glob=False).select(by_name(*names)).collect()  # as strings, `^.*$` would be a pattern
