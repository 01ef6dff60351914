"""Columns that are read together have the features that each has by itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.columns import (
    BinnedColumn,
    CategoryColumn,
    DateColumn,
    FittedColumn,
    HashedColumn,
    NumericColumn,
)
from millrace.runtime.schemas import TabularRecords
from millrace.runtime.tabular import Featurizer, features, row_features, transform
from tests.runtime.plain_features import in_table, one_by_one

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
numeric = st.builds(
    NumericColumn, name=st.just(""), shift=finite, scale=st.floats(1e-3, 1e3), missing=finite, indicator=st.booleans(),
    decimal=st.sampled_from([".", ","]),
)  # fmt: skip
binned = st.builds(
    BinnedColumn, name=st.just(""), decimal=st.sampled_from([".", ","]),
    edges=st.lists(finite, min_size=1, max_size=4, unique=True).map(lambda edges: tuple(sorted(edges))),
)  # fmt: skip
words = ["a", "b", "1", "1.5", "true", "false", "2020-01-01", "x y", "inf", "\u017f", "\u212a"]
category = st.builds(
    CategoryColumn, name=st.just(""), values=st.lists(st.sampled_from(words), max_size=5, unique=True).map(tuple)
)
hashed = st.builds(HashedColumn, name=st.just(""), buckets=st.integers(2, 9))
Part = get_args(DateColumn.model_fields["parts"].annotation)[0]
date = st.builds(
    DateColumn, name=st.just(""), format=st.sampled_from([None, "%d.%m.%Y"]),
    parts=st.lists(st.sampled_from(get_args(Part)), min_size=1, unique=True).map(tuple),
    shifts=st.just({"days": 9000.5, "year": 1999.0}), scales=st.just({"days": 3.0, "year": 7.0}),
)  # fmt: skip
written = st.one_of(
    st.none(),
    st.floats().map(str),
    st.integers(-300, 300).map(str),
    st.text("0123456789.,-+eE infnatru\t", max_size=6),
    st.sampled_from([*words, "True", " FALSE", "NA", " n/A ", "?", "", "1,5", "+3", "007", "1e300", "-1e-400", "1e39"]),
    st.sampled_from(["2020-02-29", "2020-02-30", "1999-12-31T23:59:59.5-01:00", "31.12.2020", "nul", "Ⅳ", "\0"]),
)
kinds: Mapping[str, tuple[pl.DataType | type[pl.DataType], st.SearchStrategy[Any]]] = {
    "text": (pl.String, written),
    "float": (pl.Float64, st.none() | st.floats()),
    "short": (pl.Float32, st.none() | st.floats(width=32)),
    "whole": (pl.Int64, st.none() | st.integers(-(2**63), 2**63 - 1)),
    "byte": (pl.UInt8, st.none() | st.integers(0, 255)),
    "money": (pl.Decimal(9, 2), st.none() | st.integers(-99999, 99999).map(lambda cents: Decimal(cents) / 100)),
    "truth": (pl.Boolean, st.none() | st.booleans()),
    "day": (pl.Date, st.none() | st.dates(dt.date(1600, 1, 1))),
    "moment": (pl.Datetime("ms", "Asia/Kolkata"), st.none() | st.datetimes(dt.datetime(1901, 1, 1))),
    "sort": (pl.Categorical(), st.none() | st.sampled_from(words)),
    "set": (pl.Enum(words), st.none() | st.sampled_from(words)),
    "nothing": (pl.Null, st.none()),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, list[FittedColumn]]:
    """Columns of few types, so that several are read together."""
    rows = draw(st.integers(0, 4))
    types = draw(st.lists(st.sampled_from([*kinds]), min_size=1, max_size=3))
    made: list[pl.Series] = []
    columns: list[FittedColumn] = []
    for number in range(draw(st.integers(1, 8))):
        kind, values = kinds[draw(st.sampled_from(["text", *types]))]
        given = draw(st.lists(values, min_size=rows, max_size=rows))
        made.append(pl.Series(f"c{number}", given).cast(kind) if rows else pl.Series(f"c{number}", [], dtype=kind))
        column = draw(st.one_of(numeric, binned, category, hashed, date))
        columns.append(column.model_copy(update={"name": f"c{number}"}))
    return pl.DataFrame(made), draw(st.permutations(columns))


def same_bits(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@settings(max_examples=300, deadline=None)
@given(table=tables())
def test_tables_are_as_value_by_value(table: tuple[pl.DataFrame, list[FittedColumn]]) -> None:
    frame, columns = table
    found, flaws = transform(frame, columns)
    wanted, problems = one_by_one(frame, columns)
    assert flaws == problems
    good = [row for row in range(frame.height) if row not in {flaw.row for flaw in flaws}]
    assert same_bits(found[good], wanted[good])
    assert found.flags.c_contiguous


values = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 3),
    st.sampled_from(
        [-0.0, 1e300, -1e300, 1.7e308, 10**299, 10**300 - 1, 10**300, 10**309, -(10**400), 5e-324, 2.0**63]
    ),
    written,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[dict[str, object]], list[FittedColumn]]:
    """Rows of which some have numbers alone."""
    columns = draw(st.lists(st.one_of(numeric, numeric, binned, category, hashed, date), min_size=1, max_size=6))
    columns = [column.model_copy(update={"name": f"c{number}"}) for number, column in enumerate(columns)]
    some = draw(st.sampled_from([values, st.floats(), st.none() | st.integers() | finite, written]))
    names = [column.name for column in columns]
    rows: list[dict[str, object]] = draw(st.lists(st.dictionaries(st.sampled_from(names), some), max_size=3))
    return rows, columns


@settings(max_examples=300, deadline=None)
@given(request=requests())
def test_rows_of_json_are_as_in_a_table_of_text(request: tuple[list[dict[str, object]], list[FittedColumn]]) -> None:
    rows, columns = request
    schema = TabularRecords(columns=tuple(columns), ignored=("z",), classes=("a", "b"))
    cells = {one.name: [in_table(row.get(one.name), one) for row in rows] for one in columns}
    frame = pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))
    wanted, problems = one_by_one(frame, columns)
    if problems:
        first = min(problems)
        with pytest.raises(DataError) as caught:
            row_features(rows, schema)
        assert str(caught.value) == f"row {first.row}, column {first.column!r}: {first.problem}"
    else:
        assert same_bits(row_features(rows, schema), wanted)
        assert same_bits(features(frame, columns), wanted)


def wide(columns: int) -> list[FittedColumn]:
    """Every fifth column is none of numbers."""
    others: tuple[FittedColumn, ...] = (
        CategoryColumn(name="", values=("a", "7")),
        HashedColumn(name="", buckets=5),
        BinnedColumn(name="", edges=(3.0, 50.0)),
        DateColumn(name="", format=None, parts=("month",), shifts={}, scales={}),
    )
    return [
        NumericColumn(name=f"n{at}", shift=at / 7, scale=1 + at % 3, missing=0.5, indicator=at % 2 == 0)
        if at % 5
        else others[at // 5 % 4].model_copy(update={"name": f"o{at}"})
        for at in range(columns)
    ]


class TestWide:
    columns = wide(600)

    def rows(self) -> list[dict[str, object]]:
        numbers = np.random.default_rng(3).normal(size=(3, 600)).round(3).tolist()
        return [
            {
                column.name: None if at % 11 == row else "2024-05-06" if column.kind == "date" else numbers[row][at]
                for at, column in enumerate(self.columns)
            }
            for row in range(3)
        ]

    def test_tables_and_rows_are_as_value_by_value(self) -> None:
        cells = {one.name: [in_table(row[one.name], one) for row in self.rows()] for one in self.columns}
        frame = pl.DataFrame(cells)
        wanted, problems = one_by_one(frame, self.columns)
        assert not problems
        assert same_bits(features(frame, self.columns), wanted)
        of_rows = Featurizer(self.columns).of_rows
        assert same_bits(of_rows(self.rows()), wanted)
        assert same_bits(np.concatenate([of_rows([row]) for row in self.rows()]), wanted)

    def test_flaws_name_row_column_and_value(self) -> None:
        rows = self.rows()
        rows[1]["n1"], rows[2]["n598"], rows[1]["n596"], rows[2]["o10"] = "x", "1e39", float("inf"), "many"
        cells = {one.name: [in_table(row[one.name], one) for row in rows] for one in self.columns}
        _, flaws = transform(pl.DataFrame(cells), self.columns)
        assert [(flaw.row, flaw.column, flaw.problem.partition(" ")[0]) for flaw in flaws] == [
            (1, "n1", "'x'"), (2, "o10", "'many'"), (1, "n596", "'inf'"), (2, "n598", "'1e39'")
        ]  # fmt: skip
        with pytest.raises(DataError, match=r"row 1, column 'n1': 'x' is no number: write it as 1\.5"):
            Featurizer(self.columns).of_rows(rows)
        rows[2]["o0"] = ["x"]
        with pytest.raises(DataError, match=r"row 2, column 'o0': \['x'\] is no value of a table"):
            Featurizer(self.columns).of_rows(rows)
        with pytest.raises(DataError, match="row 0: unknown column 'n5980': did you mean 'n598'"):
            Featurizer(self.columns).of_rows([{"n1": 1, "n5980": 3}])

    def test_values_of_ignored_columns_are_not_looked_at(self) -> None:
        rows = [{**row, "z": [{"\ud800": 1}]} for row in self.rows()]
        found = Featurizer(self.columns, ["z"]).of_rows(rows)
        assert same_bits(found, Featurizer(self.columns).of_rows(self.rows()))
