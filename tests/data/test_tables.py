"""Tables in files, whole and damaged."""

from __future__ import annotations

import csv
import gzip
import io
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.data.tables import (
    MAX_CELL,
    MAX_COLUMNS,
    TableFormat,
    local_copy,
    read_batches,
    table_format,
    table_schema,
)
from millrace.errors import DataError
from tests.conftest import Bucket


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def form(path: Path) -> TableFormat:
    found = table_format(path.name)
    assert found is not None
    return found


def rows(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return [row for batch in read_batches(path, form(path), columns) for row in batch.iter_rows(named=True)]


def parquet(frame: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()


AB = [{"a": "1", "b": "x"}, {"a": "2", "b": None}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"), ("A.CSV", "csv"), ("b/a.tsv", "tsv"), ("a.parquet", "parquet"), ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"), ("a.json", "jsonl"), ("a.csv.gz", "csv"), ("a.jsonl.gz", "jsonl"),
        ("a.parquet.gz", None), ("a.txt", None), ("csv", None), (".csv/a", None), ("a.gz", None),
    ],
)  # fmt: skip
def test_the_format_is_told_by_the_ending(name: str, expected: str | None) -> None:
    assert table_format(name) == expected


class TestRows:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", b"a,b\n1,x\n2,\n"),
            ("a.csv", b"\xef\xbb\xbfa,b\r\n1,x\r\n2,\r\n"),
            ("a.csv", b"\na,b\n1,x\n\n2\n\n\n"),
            ("a.csv", b"a;b\n1;x\n2;\n"),
            ("a.csv", b"a|b\n1|x\n2|\n"),
            ("a.csv", b'a;"b"\n1;x\n2;'),
            ("a.csv", b"a\tb\n1\tx\n2\t\n"),
            ("a.csv", b",a,b,\n9,1,x,\n8,2,,\n"),
            ("a.tsv", b"a\tb\n1\tx\n2\t"),
            ("a.csv.gz", gzip.compress(b"a,b\n1,x\n2,\n", mtime=0)),
            ("a.jsonl", b'{"a":1,"b":"x"}\n\n{"a":2}\n'),
            ("a.ndjson", b'{"b":"x","a":"1"}\r\n{"a":2,"b":null}'),
            ("a.jsonl.gz", gzip.compress(b'{"a":1,"b":"x"}\n{"a":2}\n', mtime=0)),
            ("a.parquet", parquet(pl.DataFrame({"b": ["x", None], "a": ["1", "2"]}))),
        ],
    )  # fmt: skip
    def test_of_each_kind_are_the_same(self, tmp_path: Path, name: str, content: bytes) -> None:
        path = put(tmp_path, name, content)
        assert [dict(sorted(row.items())) for row in rows(path)] == AB
        assert table_schema(path, form(path)).names() == [*rows(path)[0]]
        assert rows(path, ["b"]) == [{"b": "x"}, {"b": None}]
        assert [list(row) for row in rows(path, ["b", "a"])] == [["b", "a"]] * 2

    def test_of_parquet_have_types_and_nested_columns_do_no_harm(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"n": [1.5, None], "l": [[1], [2]], "c": pl.Series(["x", "y"], dtype=pl.Categorical)})
        path = put(tmp_path, "a.parquet", parquet(frame))
        assert rows(path) == frame.to_dicts()
        assert rows(path, ["n"]) == [{"n": 1.5}, {"n": None}]

    def test_come_in_order_and_in_batches(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        csv.writer(stream).writerows([("n", "t"), *((n, 'a "b",\n\n c' * (n % 3)) for n in range(50_000))])
        batches = list(read_batches(put(tmp_path, "a.csv", stream.getvalue().encode()), "csv", ["n"]))
        assert max(batch.height for batch in batches) <= 20_000
        assert [int(n) for batch in batches for n in batch["n"]] == [*range(50_000)]

    @settings(max_examples=40, deadline=None)
    @given(
        table=st.lists(
            st.tuples(*[st.text(st.characters(exclude_characters="\0\r", codec="utf-8"), min_size=1)] * 3), max_size=20
        )
    )
    def test_of_csv_are_what_was_written(self, tmp_path_factory: pytest.TempPathFactory, table: list[Any]) -> None:
        stream = io.StringIO()
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *table])
        path = put(tmp_path_factory.mktemp("t"), "a.csv", stream.getvalue().encode())
        assert [tuple(row.values()) for row in rows(path)] == table

    def test_of_one_long_text_in_many_rows_come_a_few_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("millrace.data.tables._BYTES", 6 << 16)
        frame = pl.DataFrame({"n": range(300), "t": ["short"] * 100 + ["x" * (1 << 16)] * 200})
        nested = {"l": pl.concat_list("t", "t"), "s": pl.struct("t", "n"), "b": pl.col("t").cast(pl.Binary)}
        for name, values in {"t": pl.col("t"), **nested}.items():
            path = put(tmp_path, f"{name}.parquet", parquet(frame.select("n", values.alias(name))))
            assert path.stat().st_size < 1 << 18
            heights = [batch.height for batch in read_batches(path, "parquet")]
            assert sum(heights) == 300
            assert heights[0] >= 50 or name != "t"
            assert heights[-1] <= 7

    def test_names_that_look_like_patterns_are_names(self, tmp_path: Path) -> None:
        path = put(tmp_path, "a.csv", b"^.*$,b,*\n1,2,3\n")
        assert rows(path, ["^.*$"]) == [{"^.*$": "1"}]
        assert rows(path, ["*"]) == [{"*": "3"}]

    def test_may_be_wide(self, tmp_path: Path) -> None:
        names = [f"c{number}" for number in range(MAX_COLUMNS)]
        line = ",".join("1" for _ in names)
        path = put(tmp_path, "a.csv", "\n".join([",".join(names), *[line] * 300, ""]).encode())
        batches = list(read_batches(path, "csv"))
        assert sum(batch.height for batch in batches) == 300
        assert max(batch.height for batch in batches) <= 200


KINDS: dict[str, tuple[pl.Series | pa.Array, pl.DataType]] = {
    "string view": (pa.array(["a", None, "c" * 30], pa.string_view()), pl.String()),
    "views in lists": (pa.array([["a"], None, []], pa.list_(pa.string_view())), pl.List(pl.String())),
    "large string": (pa.array(["a", None, "c"], pa.large_string()), pl.String()),
    "dictionary": (pa.array(["a", None, "c"]).dictionary_encode(), pl.Categorical()),
    "fixed bytes": (pa.array([b"abc", None, b"xyz"], pa.binary(3)), pl.Binary()),
    "uuid": (pa.array([b"a" * 16, None, b"b" * 16], pa.uuid()), pl.Binary()),
    "date64": (pa.array([date(2020, 1, 1), None, None], pa.date64()), pl.Date()),
    "seconds": (pa.array([1, None, 2], pa.timestamp("s")), pl.Datetime("ms")),
    "zone": (pa.array([1, None, 2], pa.timestamp("us", "Europe/Berlin")), pl.Datetime("us", "Europe/Berlin")),
    "time": (pa.array([1000, None, 5], pa.time32("ms")), pl.Time()),
    "duration": (pa.array([1, None, 2], pa.duration("us")), pl.Duration("us")),
    "decimal": (pa.array([Decimal("1.25"), None, None], pa.decimal128(9, 2)), pl.Decimal(9, 2)),
    "half": (pa.array([1.5, None, 2.5], pa.float16()), pl.Float16()),
    "none": (pa.nulls(3), pl.Null()),
    "arrays": (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)), pl.Array(pl.Int32, 2)),
    "arrays with gaps": (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)), pl.Array(pl.Int32, 2)),
    "128 bits": (pl.Series([2**100, None, -1], dtype=pl.Int128), pl.Int128()),
    "categories": (pl.Series(["x", "y", None], dtype=pl.Categorical), pl.Categorical()),
    "enum": (pl.Series(["x", "y", None], dtype=pl.Enum(["x", "y"])), pl.Enum(["x", "y"])),
    "unsigned": (pl.Series([2**64 - 1, None, 2], dtype=pl.UInt64), pl.UInt64()),
    "struct": (
        pl.Series([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}]),
        pl.Struct({"a": pl.Int64, "b": pl.List(pl.String)}),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_parquet(tmp_path: Path, kind: str) -> None:
    values, expected = KINDS[kind]
    path = tmp_path / "a.parquet"
    if isinstance(values, pl.Series):
        values.to_frame("a.b").write_parquet(path)
    else:
        pq.write_table(pa.table({"a.b": values, "a": [1, 2, 3]}), path)
    assert table_schema(path, "parquet")["a.b"] == expected
    found = pl.concat(read_batches(path, "parquet", ["a.b"]))
    assert found.schema == {"a.b": expected}
    assert found["a.b"].to_list() == pl.read_parquet(path)["a.b"].cast(expected).to_list()


class TestParquet:
    def test_one_group_of_rows_comes_in_batches(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"n": range(100_000), "t": [f"{n % 7}" for n in range(100_000)]})
        path = put(tmp_path, "a.parquet", parquet(frame))
        assert pq.ParquetFile(path).num_row_groups == 1
        batches = list(read_batches(path, "parquet"))
        assert max(batch.height for batch in batches) <= 20_000
        assert pl.concat(batches).equals(frame)

    def test_rows_of_many_groups_are_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pl.DataFrame({"n": range(5000)}).write_parquet(path, row_group_size=70)
        assert [row["n"] for row in rows(path)] == [*range(5000)]

    def test_columns_of_one_name_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
        with pytest.raises(DataError, match="has the column 'a' more than once: rename or remove one"):
            rows(path)

    def test_decimals_of_too_many_digits_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"a": pa.array([Decimal(1)], pa.decimal256(50, 2))}), path)
        with pytest.raises(DataError, match="has decimals of 50 digits, 38 at most can be read: write them as text"):
            rows(path)

    def test_a_name_that_is_no_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"\xff.parquet")
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
        (tmp_path / "a.parquet").rename(path)
        assert rows(path) == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"Name;Gewicht, kg;Preis;Klasse\na;70,3;17,42;x\nb;71,3;18;y\n", ["Name", "Gewicht, kg", "Preis", "Klasse"]),
        (b"Name;Gewicht, kg;Klasse\na;70,3;x\n", ["Name", "Gewicht, kg", "Klasse"]),
        (b"a, b\tc\n1\tx\n", ["a, b", "c"]),
        (b"a;x,b\n1,2\n3\n", ["a;x", "b"]),
        (b'text,b\n"x;y",1\n"z;",2\n', ["text", "b"]),
        (b"a,b;c\n", ["a", "b;c"]),
        (b"text\nsome; words, here\n", ["text"]),
    ],
)  # fmt: skip
def test_what_separates_is_told_by_the_first_rows(tmp_path: Path, content: bytes, names: list[str]) -> None:
    assert table_schema(put(tmp_path, "a.csv", content), "csv").names() == names


class TestDamage:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"", "a.csv is empty: a csv table needs at least its columns' names"),
            ("a.csv", b"\r\n\n", "is empty"),
            ("a.csv", b"a,b\n1,2\n3,4,5\n", "has 3 values in line 3, the header names 2 columns, .* by ','"),
            ("a.csv", b"a,b\n1,\xff\n", r"is not UTF-8 in line 2 \(byte 0xFF\).* iconv .* NEW\.csv"),
            ("a.csv", b'a,b\n1,"2\n3,4\n', "can't be read as csv: "),
            ("a.csv", b"a,b,a\n1,2,3\n", "has the column 'a' more than once: rename or remove one"),
            ("a.csv", b"a,b\r1,2\r", r"lines end with \\n or \\r\\n, not with \\r alone"),
            ("a.csv", b"a,b\n1\0,2\n", "has a zero byte in column 'a'"),
            ("a.csv", "a,b\n".encode("utf-16"), "is UTF-16, UTF-8 is needed: .*iconv"),
            ("a.csv", "a,b\n".encode("utf-16-be"), "is UTF-16, UTF-8 is needed: .*iconv"),
            ("a.csv", b"a" * (1 << 21), "has a first line of more than 1048576 bytes"),
            ("a.csv", b'a,b\n1,"' + b"x" * (MAX_CELL + 1) + b"\"\n", r"a value of \d+ bytes in column .b., the limit"),
            ("a.csv", ",".join(map(str, range(MAX_COLUMNS + 1))).encode(), "has 10001 columns, the limit is 10000"),
            ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 1000, mtime=0)[:-12], "can't be read as csv: "),
            ("a.csv.gz", b"\x1f\x8bnothing", "can't be read as csv: "),
            ("a.jsonl", b"", "is empty"),
            ("a.jsonl", b'\xef\xbb\xbf{"a":1}\n', "starts with a byte order mark, .* tail -c"),
            ("a.jsonl", b'[{"a":1}]\n', "can't be read as jsonl: NDJSON line expected to contain JSON object"),
            ("a.jsonl", b'{\n"a":1}\n', "can't be read as jsonl"),
            ("a.jsonl", b'{"a":1}\n{"a":', "can't be read as jsonl"),
            ("a.jsonl", b'{"a":"\xff"}\n', r"is not UTF-8 in line 1 \(byte 0xFF\)"),
            ("a.parquet", b"", "can't be read as parquet: "),
            ("a.parquet", b"a,b\n1,2\n3,4\n5,6\n", "can't be read as parquet: "),
            ("a.parquet", parquet(pl.DataFrame({"a": [1]}))[:-30], "can't be read as parquet: "),
        ],
    )  # fmt: skip
    def test_is_told_in_a_line(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        path = put(tmp_path, name, content)
        with pytest.raises(DataError, match=message) as caught:
            rows(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_a_first_line_without_an_end_is_told_as_such(self, tmp_path: Path) -> None:
        wide = ",".join(f"column{number:090}" for number in range(12_000))
        path = put(tmp_path, "a.csv", f"{wide}\n".encode())
        with pytest.raises(DataError, match=r"a\.csv has a first line of more than 1048576 bytes, the limit"):
            rows(path)

    def test_is_found_whatever_columns_are_wanted(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has 3 values in line 3"):
            rows(put(tmp_path, "a.csv", b"a,b\n1,2\n3,4,5\n"), ["a"])

    def test_names_the_object(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"^s3://b/k\.csv is empty"):
            next(read_batches(put(tmp_path, "0", b""), "csv", name="s3://b/k.csv"))

    def test_a_column_that_is_not_there_is_told_with_those_that_are(self, tmp_path: Path) -> None:
        for name, content in {"a.csv": b"text,label\n", "a.jsonl": b'{"text":1,"label":2}\n'}.items():
            with pytest.raises(DataError, match=r"no column .texts.: did you mean 'text'. allowed: label, text"):
                rows(put(tmp_path, name, content), ["texts"])

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.csv can't be read as csv"):
            rows(tmp_path / "gone.csv")


def test_objects_of_buckets_are_copied_and_files_are_not(tmp_path: Path, s3: Bucket) -> None:
    s3.put("some/a b.csv", b"a,b\n1,x\n2,\n")
    copy = local_copy(s3.uri("some/a b.csv"), tmp_path)
    assert copy.parent == tmp_path
    assert next(read_batches(copy, "csv")).to_dicts() == AB
    file = put(tmp_path, "b.csv", b"a\n")
    assert local_copy(file.as_uri(), tmp_path / "none") == file
    with pytest.raises(DataError, match="gone"):
        local_copy(s3.uri("gone.csv"), tmp_path)
