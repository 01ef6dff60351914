"""Writes or reads a TFRecord file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure import Work, main
from benchmarks.some_records import some_records
from millrace.runtime.records import RecordWriter, read_records


def prepare(given: dict[str, Any]) -> Work:
    """Given `work` (write, read), `path`, and to write: `length` and `count` of records."""
    path = Path(given["path"])
    if given["work"] == "read":
        return lambda: sum(1 for _ in read_records(path))
    records = some_records(given["length"])

    def write() -> int:
        with RecordWriter(path) as writer:
            for number in range(given["count"]):
                writer.write(records[number % len(records)])
        return writer.records

    return write


if __name__ == "__main__":
    main(prepare)
