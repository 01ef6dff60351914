"""Tables made to do harm: every one ends in rows or in a DataError, and whoever reads it lives on, in little memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.data import table_reader
from millrace.data.tables import MAX_CELL, TableFormat, read_batches, table_schema
from millrace.errors import DataError, TransientError

MEGABYTE = 1 << 20
CSV = b"i,t\n" + b"".join(b'%d,"text, ""%d""\n\xc3\xa9"\n' % (row, row) for row in range(60))
TEXTS: dict[TableFormat, bytes] = {
    "csv": CSV,
    "tsv": CSV.replace(b",", b"\t"),
    "jsonl": b"".join(b'{"i":%d,"t":"a\\n\\u00e9","l":[1,{"a":null}]}\n' % row for row in range(60)),
}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables are read by processes of their own that have 1000 MB."""
    monkeypatch.setattr(table_reader, "_MEMORY", 1000 * MEGABYTE)
    monkeypatch.setattr(table_reader, "_idle", [])
    yield
    for process in table_reader._idle:
        process.end()


def parquet_files() -> list[bytes]:
    rows = 60
    table = pa.table(
        {
            "i": [None if row % 7 == 0 else row for row in range(rows)],
            "t": [f"text {row % 9} " * (row % 4) for row in range(rows)],
            "l": [[1, row] if row % 3 else None for row in range(rows)],
            "s": [{"a": row, "b": ["x", None]} for row in range(rows)],
            "c": pa.array([f"c{row % 3}" for row in range(rows)]).dictionary_encode(),
        }
    )
    flat = table.select(["i", "t"])
    delta = {"i": "DELTA_BINARY_PACKED", "t": "DELTA_BYTE_ARRAY"}
    written = [
        *(write(table, compression=codec) for codec in ("snappy", "gzip", "zstd", "lz4", "none")),
        write(flat, use_dictionary=False, column_encoding=delta, compression="none"),
        write(flat, data_page_version="2.0", row_group_size=20, write_page_index=True),
    ]
    stream = io.BytesIO()
    pl.DataFrame({"q": pl.Series([2**90, None], dtype=pl.Int128)}).write_parquet(stream)
    return [*written, stream.getvalue()]


def write(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def damaged(whole: bytes, chance: random.Random, *, at_end: bool) -> bytes:
    """Bits, bytes and lengths changed, parts left out, copied and cut off."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        size = len(data)
        footer = struct.unpack("<I", data[-8:-4])[0] if at_end and size > 16 else 0
        first = size - 8 - footer if 0 < footer < size - 8 and chance.random() < 0.5 else 0
        at = chance.randrange(first, size)
        match chance.randrange(7):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice(b'\0\1\x7f\x80\xff "\n')
            case 2:
                del data[at : at + chance.randrange(1, 20)]
            case 3:
                source = chance.randrange(size)
                data[at : at + 30] = data[source : source + chance.randrange(1, 60)]
            case 4:
                data[at : at + 4] = b"\xff" * chance.randrange(1, 5) + chance.choice((b"\x7f", b"\x0f", b"\x01"))
            case 5:
                data[at : at + 8] = struct.pack("<q", chance.choice((2**31 - 1, -1, 2**62, 2**40, 0)))
            case _:
                del data[max(at, size - 40) :]
        if len(data) < 16:
            break
    return bytes(data)


def outcome(path: Path, form: TableFormat) -> str:
    try:
        table_schema(path, form)
        for batch in read_batches(path, form):
            assert 0 < batch.height <= 20_000
    except DataError as error:
        return "refused" if str(error).startswith(str(path)) and "\n" not in str(error) else f"told as {error}"
    return "rows"


class TestDamage:
    def test_of_parquet_anywhere(self, tmp_path: Path) -> None:
        chance, files, path = random.Random(7), parquet_files(), tmp_path / "a.parquet"
        found = set()
        for _ in range(300):
            path.write_bytes(damaged(chance.choice(files), chance, at_end=True))
            found.add(outcome(path, "parquet"))
        assert found == {"rows", "refused"}

    @pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
    def test_of_text_anywhere(self, tmp_path: Path, form: TableFormat) -> None:
        chance, whole = random.Random(8), TEXTS[form]
        found = set()
        for number in range(60):
            text = damaged(whole, chance, at_end=False)
            packed = gzip.compress(text, mtime=0)
            for data in (text, damaged(packed, chance, at_end=False) if number % 2 else packed):
                path = tmp_path / f"a.{form}"
                path.write_bytes(data)
                found.add(outcome(path, form))
        assert found == {"rows", "refused"}

    def test_of_text_in_parquet_that_is_not_utf_8(self, tmp_path: Path) -> None:
        wrong = pa.StringArray.from_buffers(1, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe"))
        path = tmp_path / "a.parquet"
        path.write_bytes(write(pa.table({"a": wrong})))
        with pytest.raises(DataError, match=r"a\.parquet can't be read as parquet: .*UTF8"):
            list(read_batches(path, "parquet"))


class TestProcess:
    @pytest.mark.parametrize(
        ("by", "error", "message"),
        [
            (signal.SIGSEGV, DataError, r"a\.csv can't be read as csv: its reader ended with SIGSEGV: it is damaged"),
            (signal.SIGKILL, TransientError, "the process that reads tables was killed"),
        ],
    )  # fmt: skip
    def test_that_ends_is_told_and_the_next_file_is_read(
        self, tmp_path: Path, little_memory: None, by: signal.Signals, error: type[Exception], message: str
    ) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(b"n\n" + b"".join(b"%d\n" % row for row in range(200_000)))
        others = set(psutil.Process().children())
        batches = read_batches(path, "csv")
        next(batches)
        (child,) = set(psutil.Process().children()) - others
        child.send_signal(by)
        with pytest.raises(error, match=message):
            list(batches)
        assert sum(batch.height for batch in read_batches(path, "csv")) == 200_000
        (child,) = set(psutil.Process().children()) - others
        child.kill()  # while it waits for another file
        child.wait(timeout=60)
        assert sum(batch.height for batch in read_batches(path, "csv")) == 200_000

    def test_reads_other_files_when_the_rest_of_one_is_not_wanted(self, tmp_path: Path, little_memory: None) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(b"n\n" + b"".join(b"%d\n" % row for row in range(100_000)))
        others, seen = set(psutil.Process().children()), set()
        for count in (1, 2, 100):
            batches = [batch for _, batch in zip(range(count), read_batches(path, "csv"), strict=False)]
            assert [int(n) for batch in batches for n in batch["n"]] == [*range(min(count * 20_000, 100_000))]
            seen |= {*psutil.Process().children()} - others
        assert len(seen) == 1

    def test_is_not_shared_by_forks(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(b"n\n" + b"".join(b"%d\n" % row for row in range(50_000)))
        program = (
            "import os, sys\nfrom pathlib import Path\nfrom millrace.data.tables import read_batches\n"
            "read = lambda: sum(int(batch['n'].cast(int).sum()) for batch in read_batches(Path(sys.argv[1]), 'csv'))\n"
            "read()\nchild = os.fork()\nfound = [read() for _ in range(5)]\n"
            "assert found == [1_249_975_000] * 5, found\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False, timeout=120
        )
        assert ran.returncode == 0, ran.stderr

    def test_ends_with_whoever_started_it(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(b"n\n" + b"1\n" * 100_000)
        program = (
            "import sys, psutil\nfrom pathlib import Path\nfrom millrace.data.tables import read_batches\n"
            "rows = read_batches(Path(sys.argv[1]), 'csv')\nnext(rows)\n"
            "print(psutil.Process().children()[0].pid, flush=True)\nsys.stdin.read()\n"
        )
        asking = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert asking.stdout is not None
        child = psutil.Process(int(asking.stdout.readline()))
        os.kill(asking.pid, signal.SIGKILL)
        asking.communicate()
        child.wait(timeout=60)


def bomb(path: Path, head: bytes, inside: bytes, times: int) -> Path:
    """A packed file that holds something many times."""
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(inside) + packer.flush()
    path.write_bytes(gzip.compress(head, mtime=0) + packed * times)
    return path


@pytest.mark.usefixtures("little_memory")
class TestBombs:
    def test_packed_rows_come_in_batches(self, tmp_path: Path) -> None:
        path = bomb(tmp_path / "a.csv.gz", b"a,b\n", b"1,%s\n" % (b"x" * 98) * 100_000, 30)
        assert path.stat().st_size < 4 * MEGABYTE
        assert sum(batch.height for batch in read_batches(path, "csv")) == 3_000_000

    @pytest.mark.parametrize(
        ("form", "head", "inside"),
        [
            ("csv", b'a,b\n1,2\n3,"', b"x" * 10_000_000),
            ("csv", b"a,b\n1,2\n3,", b"x" * 10_000_000),
            ("jsonl", b'{"a":1}\n{"a":"', b"x" * 10_000_000),
        ],
    )
    def test_a_packed_value_without_an_end_is_refused(
        self, tmp_path: Path, form: TableFormat, head: bytes, inside: bytes
    ) -> None:
        path = bomb(tmp_path / f"a.{form}.gz", head, inside, 100)
        assert path.stat().st_size < 2 * MEGABYTE
        with pytest.raises(DataError, match=rf"a\.{form}\.gz"):
            list(read_batches(path, form))

    @pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
    def test_values_of_60_megabytes_are_refused(self, tmp_path: Path, form: TableFormat) -> None:
        path, text = tmp_path / f"a.{form}", "x" * 60_000_000
        match form:
            case "csv":
                path.write_text(f"a,b\n1,{text}\n")
            case "jsonl":
                path.write_text(f'{{"b":"{text}"}}\n')
            case _:
                path.write_bytes(write(pa.table({"b": [text]}), compression="zstd"))
        with pytest.raises(DataError, match=f"has a value of 60000000 bytes in column 'b', the limit is {MAX_CELL}"):
            list(read_batches(path, form))

    def test_one_long_value_that_stands_in_every_row(self, tmp_path: Path) -> None:
        values = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["x" * 200_000])
        path = tmp_path / "a.parquet"
        path.write_bytes(write(pa.table({"a": values}), compression="zstd", store_schema=False))
        assert path.stat().st_size < MEGABYTE
        batches = [batch for _, batch in zip(range(4), read_batches(path, "parquet"), strict=False)]
        assert all(0 < batch.height < 400 for batch in batches)
        assert set(batches[3]["a"].str.len_bytes()) == {200_000}

    def test_a_page_of_more_than_there_is_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_reader, "_MEMORY", 300 * MEGABYTE)
        path = tmp_path / "a.parquet"
        path.write_bytes(write(pa.table({"a": [b"\0" * 200_000_000]}), compression="zstd", use_dictionary=False))
        assert path.stat().st_size < MEGABYTE
        with pytest.raises(
            DataError, match=r"a\.parquet can't be read as parquet: it needs more than 300 MB of memory"
        ):
            list(read_batches(path, "parquet"))

    def test_rows_that_memory_ends_within_are_no_end_of_the_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table_reader, "_MEMORY", 600 * MEGABYTE)
        path = tmp_path / "a.csv"
        path.write_bytes(b"a,b\n1," + b"x" * 60_000_000 + b"\n")
        with pytest.raises(DataError, match=r"a\.csv "):
            list(read_batches(path, "csv"))

    def test_depth(self, tmp_path: Path) -> None:
        kind = pa.int32()
        for _ in range(90):
            kind = pa.struct([("a", kind)])
        path = tmp_path / "a.parquet"
        path.write_bytes(write(pa.table({"x": pa.nulls(2, kind)}), store_schema=False))
        assert outcome(path, "parquet") == "refused"
        lines = tmp_path / "a.jsonl"
        lines.write_bytes(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}\n")
        assert outcome(lines, "jsonl") == "refused"

    def test_width(self, tmp_path: Path) -> None:
        names = [f"c{number}" for number in range(10_001)]
        (tmp_path / "a.jsonl").write_text("{" + ",".join(f'"{name}":1' for name in names) + "}\n")
        (tmp_path / "a.parquet").write_bytes(write(pa.table({name: [1] for name in names})))
        for form in ("jsonl", "parquet"):
            with pytest.raises(DataError, match="has 10001 columns, the limit is 10000"):
                table_schema(tmp_path / f"a.{form}", "jsonl" if form == "jsonl" else "parquet")
