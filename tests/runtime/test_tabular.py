"""Features of rows of tables: the same for records and for serving."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import tau
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

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
from millrace.runtime.tabular import features, row_features, transform
from millrace.runtime.values import MISSING, as_texts
from tests.runtime.plain_features import in_table

NUMBER = NumericColumn(name="n", shift=1, scale=2, missing=5, indicator=True)
BINS = BinnedColumn(name="n", edges=(0, 10))
CATEGORY = CategoryColumn(name="c", values=("a", "true", "1"))
HASHED = HashedColumn(name="c", buckets=7)
DATE = DateColumn(
    name="d",
    format=None,
    parts=("days", "year", "month", "day", "weekday", "hour", "minute"),
    shifts={"days": 10, "year": 1970},
    scales={"days": 2, "year": 1},
)
ALL: Sequence[FittedColumn] = (NUMBER, BINS, CATEGORY, HASHED, DATE)


def of(values: Sequence[Any] | pl.Series, column: FittedColumn) -> list[list[float]]:
    made = features(pl.DataFrame({column.name: pl.Series(values, strict=False)}), [column])
    found: list[list[float]] = made.round(4).tolist()
    return found


class TestNumbers:
    @pytest.mark.parametrize("text", ["3", " 3.0 ", "+3", "3e0", "3.", "0.3e1", "\t3\n"])
    def test_as_text_are_parsed(self, text: str) -> None:
        assert of([text], NUMBER) == [[1, 0]]

    @pytest.mark.parametrize("value", [3, 3.0, Decimal("3.0"), np.int8(3), np.float32(3)])
    def test_of_any_type_are_the_same(self, value: Any) -> None:
        assert of(pl.Series([value]), NUMBER) == [[1, 0]]

    @pytest.mark.parametrize("value", [*MISSING, "NA", " NaN ", "NULL", "N/A", None])
    def test_that_are_missing_have_a_value_and_a_mark(self, value: str | None) -> None:
        assert of(pl.Series([value], dtype=pl.String), NUMBER) == [[2, 1]]
        assert of(pl.Series([value], dtype=pl.String), NUMBER.model_copy(update={"indicator": False})) == [[2]]
        assert of(pl.Series([value], dtype=pl.String), BINS) == [[0, 0, 0, 1]]

    def test_that_are_not_a_number_are_missing(self) -> None:
        assert of([float("nan"), 3.0], NUMBER) == [[2, 1], [1, 0]]
        assert of(pl.Series([None, None]), NUMBER) == [[2, 1]] * 2

    @pytest.mark.parametrize(
        "text", ["abc", "1,5", "1_000", "0x10", "inf", "-Infinity", "1e999", "true", "1 2", "\u0661", "--1"]
    )
    @pytest.mark.parametrize("column", [NUMBER, BINS])
    def test_of_another_form_are_refused(self, text: str, column: FittedColumn) -> None:
        with pytest.raises(DataError, match=r"^row 1, column 'n': .* is no number: write it as 1\.5") as caught:
            of(["1", text], column)
        assert repr(text) in str(caught.value)

    def test_that_are_infinite_or_too_large_are_refused(self) -> None:
        for value in (float("inf"), float("-inf")):
            with pytest.raises(DataError, match=r"row 0, column 'n': .* is no number"):
                of([value], NUMBER)
        for large in (1e300, "1e39"):
            with pytest.raises(DataError, match=r"row 0, column 'n': .*1e.* is too large: .* a 32-bit float"):
                of([large], NUMBER)
        with pytest.raises(DataError, match="row 0, column 'n': True is no number"):
            of([True], NUMBER)

    def test_belong_to_the_first_range_whose_edge_they_are_below(self) -> None:
        assert [row.index(1) for row in of([-1e300, -0.1, 0, 9.9, 10, 1e300], BINS)] == [0, 0, 1, 1, 2, 2]


class TestCategories:
    def test_are_the_text_and_others_share_a_feature(self) -> None:
        found = of(["a", " a ", "True", "1", "A", "b", None, "NA", "?"], CATEGORY)
        assert [row.index(1) for row in found] == [0, 0, 1, 2, 3, 3, 4, 4, 4]
        assert {sum(row) for row in found} == {1}

    @pytest.mark.parametrize(
        ("values", "places"),
        [([1, 2], [2, 3]), ([1.0, 1.5, float("nan")], [2, 3, 4]), ([True, False, None], [1, 3, 4]),
         (pl.Series(["a", "x", None], dtype=pl.Categorical), [0, 3, 4]), (pl.Series([None, None]), [4, 4])],
    )  # fmt: skip
    def test_of_other_types(self, values: Sequence[Any], places: list[int]) -> None:
        assert [row.index(1) for row in of(values, CATEGORY)] == places

    def test_may_be_none(self) -> None:
        assert of(["a", None], CategoryColumn(name="c", values=())) == [[1, 0], [0, 1]]

    @pytest.mark.parametrize(
        ("value", "text"),
        [("1.0", "1"), ("1.50", "1.5"), ("1e-07", "1e-7"), ("0.0000001", "1e-7"), (1e-7, "1e-7"), ("-0.0", "0"),
         (1e16, "10000000000000000"), ("1E2", "100"), (pl.Series([Decimal("2.50")]), "2.5"),
         (pl.Series([0.1], dtype=pl.Float32), "0.1"),
         ("007", "007"), ("+1", "+1"), ("1.2.0", "1.2.0"), ("1e400", "1e400"), (" 3.0 ", "3"),
         ("12345678901234567891", "12345678901234567891")],
    )  # fmt: skip
    def test_of_numbers_are_the_same_however_they_are_written(self, value: Any, text: str) -> None:
        """Leading zeros and long ids make other texts: they are no numbers to reckon with."""
        assert as_texts(value if isinstance(value, pl.Series) else pl.Series([value])).to_list() == [text]
        assert as_texts(pl.Series([text])).to_list() == [text]

    @settings(max_examples=200, deadline=None)
    @given(number=st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70)))
    def test_of_tables_are_those_that_are_served(self, number: float) -> None:
        (of_lines,) = as_texts(pl.Series([json.dumps(number)]))
        if isinstance(number, float):
            assert (
                as_texts(pl.Series([number])).to_list() == as_texts(pl.Series([f"{number!r}"])).to_list() == [of_lines]
            )
        schema = TabularRecords(columns=(CategoryColumn(name="c", values=("a", of_lines)),), classes=("a", "b"))
        assert row_features([{"c": number}], schema).tolist() == [[0, 1, 0, 0]]

    def test_are_hashed_as_documented(self) -> None:
        """Records and models outlive versions: the place must never change."""
        found = of(["a", "Straße", "1", None, " a "], HASHED)
        places = [
            int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest(), "little") % 7
            for t in ("a", "Straße", "1")
        ]
        assert [row.index(1) for row in found] == [*places, 7, places[0]]
        assert places == [4, 0, 5]


class TestDates:
    @pytest.mark.parametrize(
        "text",
        ["1970-02-01T06:30", "1970-02-01 06:30:00", " 1970-02-01T06:30:00.000 ", "1970-02-01T06:30Z",
         "1970-02-01T08:30:00+02:00", "1970-01-31T23:00-0730"],
    )  # fmt: skip
    def test_of_iso_8601_are_brought_to_utc(self, text: str) -> None:
        self.check(of([text], DATE)[0])

    def test_of_types_are_the_same(self) -> None:
        moment = dt.datetime(1970, 2, 1, 6, 30)
        self.check(of([moment], DATE)[0])
        self.check(of([moment.replace(tzinfo=dt.UTC)], DATE)[0])
        zoned = pl.Series([moment]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata")
        self.check(of(zoned, DATE)[0])
        assert of([dt.date(1970, 1, 11)], DATE) == of(["1970-01-11"], DATE)

    def test_of_a_format(self) -> None:
        column = DATE.model_copy(update={"format": "%d.%m.%y %H:%M"})
        self.check(of(["01.02.70 06:30"], column)[0])
        with pytest.raises(
            DataError, match=r"row 0, column 'd': '1970-02-01' is no date: write it as %d\.%m\.%y %H:%M"
        ):
            of(["1970-02-01"], column)

    def test_that_are_missing_are_zeros_and_a_mark(self) -> None:
        assert of(["NA"], DATE) == [[0] * 12 + [1]]
        assert of([None, dt.date(1970, 1, 11)], DATE)[0] == [0] * 12 + [1]

    @pytest.mark.parametrize(
        "text", ["1970-02-30", "70-02-01", "1970-2-1", "19700201", "1970", "1970-02-01T25:00", "now"]
    )
    def test_of_another_form_are_refused(self, text: str) -> None:
        with pytest.raises(DataError, match=r"row 1, column 'd': .* is no date: write it as 2024-01-31 or"):
            of(["1970-02-01", text], DATE)

    def check(self, row: list[float]) -> None:
        """1 February 1970 was a Sunday."""
        angles = [tau * part for part in (1 / 12, 0, 6 / 7, 6.5 // 1 / 24, 30 / 60)]
        circles = [value for angle in angles for value in (np.sin(angle), np.cos(angle))]
        assert row == pytest.approx([(31 + 6.5 / 24 - 10) / 2, 0, *circles, 0], abs=1e-3)


class TestTables:
    def test_lacking_a_column_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"there is no column 'n': allowed: c, d"):
            features(pl.DataFrame({"c": [1], "d": [2]}), ALL)

    def test_may_have_other_columns_in_any_order_and_no_rows(self) -> None:
        assert features(pl.DataFrame({"z": ["?"], "c": ["a"], "n": [1]}), [NUMBER, CATEGORY]).shape == (1, 7)
        assert features(pl.DataFrame({"n": [], "c": [], "d": []}), ALL).shape == (0, sum(c.width for c in ALL))

    @pytest.mark.parametrize("values", [[[1], [2]], [{"a": 1}, None], [b"x", b"y"]], ids=["list", "struct", "bytes"])
    @pytest.mark.parametrize("column", [NUMBER, CATEGORY, HASHED])
    def test_of_nested_columns_are_refused(self, values: list[Any], column: FittedColumn) -> None:
        with pytest.raises(DataError, match=f"column '{column.name}' holds .*, of which no feature can be made"):
            features(pl.DataFrame({column.name: values}), [column])

    def test_have_all_flaws_told(self) -> None:
        frame = pl.DataFrame({"n": ["x", "1", "y"], "d": ["1970-01-01", "z", None]})
        _, flaws = transform(frame, [NUMBER, DATE])
        assert [(flaw.row, flaw.column) for flaw in flaws] == [(0, "n"), (2, "n"), (1, "d")]

    def test_wider_than_the_limit_have_no_schema(self) -> None:
        with pytest.raises(ValidationError, match="the columns make 100001 features, the limit is 100000"):
            TabularRecords(columns=(HashedColumn(name="c", buckets=100_000),), classes=("a", "b"))


class TestServing:
    schema = TabularRecords(columns=(NUMBER, CATEGORY, DATE), classes=("a", "b"))

    @pytest.mark.parametrize(
        ("row", "table"),
        [
            ({"n": 3, "c": "a", "d": "1970-02-01"}, {"n": "3", "c": "a", "d": "1970-02-01"}),
            ({"n": 3.0, "c": 1, "d": None}, {"n": "3", "c": "1", "d": ""}),
            ({"n": None, "c": 1.0}, {"n": None, "c": "1", "d": None}),
            ({"n": "3", "c": True, "d": "NA"}, {"n": " 3", "c": "true", "d": None}),
            ({"n": 0.1, "c": False}, {"n": "0.1", "c": "FALSE", "d": None}),
            ({"n": float("nan")}, {"n": "NaN", "c": None, "d": None}),
            ({}, {"n": None, "c": None, "d": None}),
        ],
    )
    def test_rows_are_as_in_tables(self, row: Mapping[str, object], table: Mapping[str, object]) -> None:
        served = row_features([row], self.schema)
        of_table = pl.DataFrame([table], schema=dict.fromkeys("ncd", pl.String))
        np.testing.assert_array_equal(served, features(of_table, self.schema.columns))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"nn": 1}, "row 1: unknown column 'nn': did you mean 'n'"),
            ({"n": [1]}, r"row 1, column 'n': \[1\] is no value of a table"),
            ({"c": {"a": 1}}, "row 1, column 'c': .* is no value of a table"),
            ({"n": float("inf")}, "row 1, column 'n': 'inf' is no number"),
            ({"n": 10**400}, "row 1, column 'n': 'inf' is no number"),
            ({"n": True}, "row 1, column 'n': 'true' is no number"),
            ({"c": "\ud800"}, "row 1, column 'c': .* is no text in UTF-8"),
        ],
    )
    def test_rows_that_are_none_are_refused(self, row: Mapping[str, object], message: str) -> None:
        with pytest.raises(DataError, match=message):
            row_features([{"n": 1}, row], self.schema)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["a", "1", "1.5", "NA", "2020-01-01", "2020-01-01T10:00+01:00", " ", "\0", "\u0661"]),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"n": values, "c": values, "d": values}), max_size=12),
    cut=st.integers(0, 12),
)
def test_any_row_has_finite_features_of_its_own_or_a_flaw(rows: list[dict[str, Any]], cut: int) -> None:
    schema = TabularRecords(columns=tuple(ALL), classes=("a", "b"))
    cells = {column.name: [in_table(row[column.name], column) for row in rows] for column in ALL}
    frame = pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))
    found, flaws = transform(frame, ALL)
    wrong = {flaw.row for flaw in flaws}
    good = [row for row in range(len(rows)) if row not in wrong]
    assert found.shape == (len(rows), schema.shape[0])
    assert np.isfinite(found[good]).all()
    parts = [transform(frame[:cut], ALL), transform(frame[cut:], ALL)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts])[good], found[good])
    assert len(flaws) == sum(len(part[1]) for part in parts)
    for row in good:
        alone = row_features([rows[row]], schema)
        np.testing.assert_array_equal(alone[0], found[row])


def test_decimal_commas_are_of_text_alone() -> None:
    number = NumericColumn(name="n", shift=0.0, scale=1.0, missing=0.0, indicator=False, decimal=",")
    ranges = BinnedColumn(name="b", edges=(1.4, 1.6), decimal=",")
    schema = TabularRecords(columns=(number, ranges), classes=("a", "b"))
    same: list[dict[str, object]] = [{"n": "1,5", "b": "1,5"}, {"n": 1.5, "b": 1.5}]
    assert row_features(same, schema).tolist() == [[1.5, 0, 1, 0, 0]] * 2
    assert features(pl.DataFrame({"n": [1.5], "b": [1.5]}), schema.columns).tolist() == [[1.5, 0, 1, 0, 0]]
    with pytest.raises(DataError, match=r"row 0, column 'n': '1\.5' is no number: write it as 1,5, -2 or 1e3"):
        row_features([{"n": "1.5"}], schema)
