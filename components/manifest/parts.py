"""Tables on disk, in parts: what is known of each object is never in memory for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

__all__ = ["ROWS", "Parts", "even", "write_stream"]

ROWS = 50_000
"""Of a part."""


class Parts:
    """Rows in their order, in Parquet files of a folder.

    Args:
        folder: A new one, for the files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._starts = [0]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def rows(self) -> int:
        """Of all parts."""
        return self._starts[-1]

    def add(self, frame: pl.DataFrame) -> None:
        """Write one more part."""
        frame.write_parquet(self._path(len(self)), compression="lz4", statistics=False)
        self._starts.append(self.rows + frame.height)

    def read(self, number: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """One part."""
        return pl.read_parquet(self._path(number), columns=None if columns is None else list(columns), glob=False)

    def frames(
        self, columns: Sequence[str] | None = None, where: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Each part, and the position of its first row among all; only parts with rows `where` it holds, if given."""
        for number, (start, end) in enumerate(pairwise(self._starts)):
            if where is None or where[start:end].any():
                yield start, self.read(number, columns)

    def pick(self, positions: NDArray[np.int64], columns: Sequence[str]) -> pl.DataFrame:
        """The rows at positions, which must rise; parts without any are not read."""
        cuts = np.searchsorted(positions, self._starts)
        found = [
            self.read(number, columns)[positions[low:high] - self._starts[number]]
            for number, (low, high) in enumerate(pairwise(cuts))
            if low < high
        ]
        return pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))

    def write(self, path: Path, schema: Mapping[str, pl.DataType]) -> None:
        """Write all rows into one file; `schema` is for the case that there are none."""
        write_stream(path, (frame for _, frame in self.frames(list(schema))), schema)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"


def even(frames: Iterable[pl.DataFrame], rows: int = ROWS) -> Iterator[pl.DataFrame]:
    """The same rows in tables of equal height, however they come: so the files made of them are the same, too."""
    held: list[pl.DataFrame] = []
    height = 0
    for frame in frames:
        held.append(frame)
        height += frame.height
        if height < rows:
            continue
        joined = pl.concat(held)
        whole = height - height % rows
        yield from joined[:whole].iter_slices(rows)
        held, height = [joined[whole:]], height - whole
    if height:
        yield pl.concat(held)


def write_stream(path: Path, frames: Iterable[pl.DataFrame], schema: Mapping[str, pl.DataType]) -> None:
    """Write tables one after the other into a Parquet file, with a few of them in memory."""

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from frames  # all of it: nothing is asked of the table but to be written

    whole = register_io_source(source, schema=pl.Schema(schema))
    whole.sink_parquet(path, compression="zstd", row_group_size=ROWS, maintain_order=True)
