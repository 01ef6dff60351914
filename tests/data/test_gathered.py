"""Rows that are gathered on disk and read back column by column."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from millrace.data.gathered import Gathered
from millrace.errors import DataError


def rows(first: int, count: int, *names: str) -> pl.DataFrame:
    return pl.DataFrame({name: [f"{name}{row}" for row in range(first, first + count)] for name in names})


@pytest.mark.parametrize("cells", [1, 12, 1_000_000])
def test_columns_are_the_same_however_many_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    monkeypatch.setattr("millrace.data.gathered._CELLS", cells)
    gathered = Gathered(tmp_path / "columns")
    for first in (0, 3, 6):
        gathered.add(rows(first, 3, "b", "a", "^.*$"), "x.jsonl")
    gathered.add(rows(9, 2, "a", "^.*$"), "y.jsonl")
    names = gathered.columns()
    assert (names, gathered.rows) == (["^.*$", "a", "b"], 11)
    found = {name: parts for group in gathered.groups(names) for name, parts in group.items()}
    assert list(found) == names
    for name in names:
        there = 9 if name == "b" else 11
        wanted = [f"{name}{row}" for row in range(there)] + [None] * (11 - there)
        assert pl.concat(found[name]).to_list() == wanted
        assert [value for part in gathered.column(name) for value in part] == wanted
    assert len(list((tmp_path / "columns").iterdir())) == {1: 4, 12: 2, 1_000_000: 1}[cells]


def test_columns_that_some_tables_lack_are_refused(tmp_path: Path) -> None:
    gathered = Gathered(tmp_path / "columns")
    gathered.add(rows(0, 1, "a", "b"), "x.csv")
    gathered.add(rows(0, 1, "a"), "y.csv")
    with pytest.raises(DataError, match=r"x\.csv has the column 'b', other tables have not"):
        gathered.columns()
