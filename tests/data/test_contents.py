"""Digests of rows, against what they are said to be."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.data.contents import row_contents

Row = Mapping[str, str | None]


def one_by_one(rows: Sequence[Row]) -> list[tuple[str, int, bool]]:
    """Digest, size and whether a row is empty, of values as text."""
    found: list[tuple[str, int, bool]] = []
    for row in rows:
        words = {name: None if text is None else re.sub("[ \t\n]+", " ", text).strip(" ") for name, text in row.items()}
        told = "".join(
            f"{len(name)}:{name}=" + ("-" if words[name] is None else f"{len(words[name] or '')}:{words[name]}")
            for name in sorted(words)
        )
        size = sum(len(text.encode()) for text in row.values() if text is not None)
        found.append((hashlib.sha256(told.encode()).hexdigest(), size, not any(words.values())))
    return found


names = st.lists(st.sampled_from(["a", "b", "é", "^.*$", "long name", "1:a=", ""]), min_size=1, unique=True)
texts = st.none() | st.text(" \t\nabé:=-1\0", max_size=6)


@given(names=names, given=st.lists(st.lists(texts, min_size=7, max_size=7), max_size=5), chosen=st.data())
def test_rows_are_digests_of_their_values(
    names: list[str], given: list[list[str | None]], chosen: st.DataObject
) -> None:
    rows = [dict(zip(names, row, strict=False)) for row in given]
    batch = pl.DataFrame({name: [row[name] for row in rows] for name in names}, schema=dict.fromkeys(names, pl.String))
    some = chosen.draw(st.permutations(names))[: chosen.draw(st.integers(1, len(names)))]
    found = row_contents(batch, some)
    assert found.schema == {"content": pl.String, "size": pl.Int64, "empty": pl.Boolean}
    assert found.rows() == one_by_one([{name: row[name] for name in some} for row in rows])


@pytest.mark.parametrize("columns", [1, 700])
def test_values_of_types_are_as_they_are_written(columns: int) -> None:
    kinds: dict[str, tuple[pl.Series, list[str | None]]] = {
        "whole": (pl.Series([1, None, -3], dtype=pl.Int16), ["1", None, "-3"]),
        "float": (pl.Series([1.5, None, 2.0]), ["1.5", None, "2.0"]),
        "truth": (pl.Series([True, None, False]), ["true", None, "false"]),
        "date": (pl.Series([dt.date(2024, 1, 2), None, None]), ["2024-01-02", None, None]),
        "while": (pl.Series([dt.timedelta(0, 1), None, None], dtype=pl.Duration("us")), ["1000000", None, None]),
        "bytes": (pl.Series([b"\0\xff", None, b""]), ["00ff", None, ""]),
        "sort": (pl.Series(["x", None, "y"], dtype=pl.Categorical()), ["x", None, "y"]),
        "text": (pl.Series(["x  z", None, ""]), ["x  z", None, ""]),
        "nothing": (pl.Series([None] * 3), [None] * 3),
    }
    made = {f"{name}{number}": kinds[name] for number in range(columns) for name in kinds}
    batch = pl.DataFrame([values.alias(name) for name, (values, _) in made.items()])
    rows = [{name: written[row] for name, (_, written) in made.items()} for row in range(3)]
    assert row_contents(batch, batch.columns).rows() == one_by_one(rows)
    assert row_contents(batch, batch.columns)["empty"].to_list() == [False, True, False]


def test_nested_values_are_json() -> None:
    batch = pl.DataFrame({"list": [[1, 2], None], "pair": [{"x": 1, "y": None}, None]})
    written = {"list": '{"list":[1,2]}', "pair": '{"pair":{"x":1,"y":null}}'}
    assert row_contents(batch, batch.columns).rows() == one_by_one([written, dict.fromkeys(written)])
