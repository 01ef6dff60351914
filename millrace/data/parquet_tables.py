"""Parquet as Arrow streams; of row groups of any size, no more is held than a part and a page of each column."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import accumulate
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from polars.selectors import by_name

from millrace.data.flaws import FlawError, check_header, check_size, chosen_columns
from millrace.data.text_tables import CELLS, arrow_streams

__all__ = ["parquet_parts"]

_BUFFER = 1 << 18  # bytes of a column that are read at a time
_VALUES = 1 << 24  # of a part, in lists
_MOST = 1 << 30  # bytes of a part that can't be divided
_FEWER = 20  # times fewer rows are tried where many need too much memory
_GAPS = "all lists to be of size"  # what Arrow says of arrays of which some are missing


def parquet_parts(path: Path, columns: list[str] | None, rows: int, most: int) -> Generator[memoryview, None, None]:
    """No rows of a file, for their types, then all rows in order, as Arrow streams.

    Args:
        path: Of the file.
        columns: Which, in the order wanted; None takes all.
        rows: Of a part, at most; 0 takes none.
        most: Bytes of a part of more than one row, about.

    Raises:
        FlawError: When it is no table that can be taken.
        MemoryError: When even a single row needs too much, or claims to.
        Exception: When it is damaged.
    """
    done = 0
    try:
        with closing(pa.OSFile(os.fsencode(path), "rb")) as source:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER, arrow_extensions_enabled=False)
            schema = _schema(file.schema_arrow, columns)
            yield _packed(schema)
            size = min(rows, _fitting(file, schema.names, most)) if rows else 0
            while size:
                try:
                    for part in _read(file, schema, size, most, done):
                        yield _packed(part.schema, part)
                        done += len(part)
                    size = 0
                except MemoryError:
                    if size == 1:
                        raise
                    size = max(size // _FEWER, 1)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        if not (isinstance(error, pa.ArrowNotImplementedError) or _GAPS in str(error)):
            raise
        yield from _by_polars(path, columns, rows, most, done)


def _schema(found: pa.Schema, columns: list[str] | None) -> pa.Schema:
    check_header(found.names)
    fields = [found.field(name) for name in chosen_columns(columns, found.names)]
    return pa.schema([field.with_type(_sent(field.type)) for field in fields])


def _sent(kind: pa.DataType) -> pa.DataType:
    """The type in which values are sent: of views on long texts, a part would hold all of the texts."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if kind in plain:
        return plain[kind]
    if pa.types.is_decimal256(kind):
        raise FlawError(f"has decimals of {kind.precision} digits, 38 at most can be read: write them as text")
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_sent(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_sent(kind.value_type)))
    return kind


def _fitting(file: pq.ParquetFile, columns: list[str], most: int) -> int:
    """Rows that fit into a part, as far as the file tells."""
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    largest = max(groups, key=lambda group: group.total_byte_size / max(group.num_rows, 1), default=None)
    if largest is None:
        return 1
    wanted = set(columns)
    size = values = 1
    for number in range(largest.num_columns):
        chunk = largest.column(number)
        steps = accumulate(chunk.path_in_schema.split("."), "{}.{}".format)  # a name may have dots, too
        if any(step in wanted for step in steps):
            size += chunk.total_uncompressed_size
            values += chunk.num_values
    rows = int(largest.num_rows)
    return max(min(rows * most // max(int(size), 1), rows * _VALUES // max(int(values), 1), CELLS // len(columns)), 1)


def _read(file: pq.ParquetFile, schema: pa.Schema, rows: int, most: int, done: int) -> Iterator[pa.RecordBatch]:
    """All rows but those that are done."""
    at = 0
    for batch in file.iter_batches(rows, columns=schema.names):
        at += len(batch)
        if at > done:
            chosen = batch.slice(max(done - at + len(batch), 0)).select(schema.names)
            chosen.validate(full=True)  # nobody else sees whether texts are UTF-8
            for column, values in zip(schema.names, chosen.itercolumns(), strict=True):
                if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                    lengths = pc.call_function("binary_length", [values])
                    check_size(pc.call_function("max", [lengths]).as_py(), column)
            sent = chosen if chosen.schema.types == schema.types else chosen.cast(schema)
            yield from _divided(sent, most)


def _bytes(part: pa.RecordBatch) -> int:
    """Of rows, without their dictionaries, which stay whole in every slice."""
    return sum((one.indices if pa.types.is_dictionary(one.type) else one).nbytes for one in part.itercolumns())


def _divided(part: pa.RecordBatch, most: int) -> Iterator[pa.RecordBatch]:
    if len(part) > 1 and _bytes(part) > most:
        half = len(part) // 2
        yield from _divided(part.slice(0, half), most)
        yield from _divided(part.slice(half), most)
    elif len(part):
        yield part


def _packed(schema: pa.Schema, part: pa.RecordBatch | None = None) -> memoryview:
    if part is not None and part.nbytes > _MOST:
        raise MemoryError
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, schema) as writer:
        if part is not None:
            writer.write_batch(part)
    return memoryview(stream.getvalue())


def _by_polars(path: Path, columns: list[str] | None, rows: int, most: int, done: int) -> Iterator[memoryview]:
    """What Arrow can't read: integers of 128 bits, and arrays of which some are missing. Row groups are read whole."""
    frame = pl.scan_parquet(path, glob=False)
    schema = frame.collect_schema()
    check_header(schema.names())
    frame = frame.select(by_name(*chosen_columns(columns, schema.names())))
    yield from arrow_streams(frame.head(0).collect(), most)
    if rows:
        for batch in frame.slice(done).collect_batches(chunk_size=rows, maintain_order=True):
            for column in batch.iter_columns():
                if column.dtype == pl.String:
                    check_size(column.str.len_bytes().max(), column.name)
            yield from arrow_streams(batch, most)
