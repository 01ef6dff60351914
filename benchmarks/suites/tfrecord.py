"""Writing and reading TFRecord files beside TensorFlow, and who can read what we write.

The shortest suite: look here for how one is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from benchmarks.plan import Case, Contender, Measured, Ratio, Setting
from benchmarks.results import Check
from benchmarks.some_records import some_records
from millrace.runtime.records import RecordWriter

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "TFRecord files"
ABOUT = "Records of three sizes are written to a file and read again by one process on one core, with checksums."

_SIZES = {"100-bytes": (100, 1_000_000), "2-kB": (2_000, 300_000), "20-kB": (20_000, 40_000)}
"""Bytes of a record, and how many of them are a measurement."""
_QUICK_RECORDS = 500


def cases(setting: Setting) -> Iterator[Case]:
    """Write and read, for each size."""
    for size, (length, full) in _SIZES.items():
        count = setting.size(full, _QUICK_RECORDS)
        if setting.wants(f"write-{size}"):
            yield _write(size, length, count, setting)
        if setting.wants(f"read-{size}"):
            yield _read(size, length, count, setting.scratch / f"{size}.tfrecord")


def _write(size: str, length: int, count: int, setting: Setting) -> Case:
    paths = {name: setting.scratch / f"{size}-of-{name}.tfrecord" for name in ("millrace", "tensorflow")}
    given: dict[str, JsonValue] = {"work": "write", "length": length, "count": count}

    def checks(found: Measured) -> Iterator[Check]:
        yield Check(
            name="the same bytes as TensorFlow",
            passed=paths["millrace"].read_bytes() == paths["tensorflow"].read_bytes() if found["tensorflow"] else None,
        )
        for path in paths.values():
            path.unlink(missing_ok=True)

    return Case(
        name=f"write-{size}",
        title=f"Write {count:,} records of {size.replace('-', ' ')}",
        unit="records",
        contenders=(
            Contender(
                about="millrace.runtime.records.RecordWriter",
                script="ours/tfrecord.py",
                arguments={**given, "path": str(paths["millrace"])},
            ),
            _tensorflow("tf.io.TFRecordWriter", {**given, "path": str(paths["tensorflow"])}),
        ),
        ratios=(Ratio(beside="tensorflow", target=1.0), Ratio(beside="tensorflow", metric="peak_bytes")),
        checks=checks,
    )


def _read(size: str, length: int, count: int, path: Path) -> Case:
    records = some_records(length)
    with RecordWriter(path) as writer:
        for number in range(count):
            writer.write(records[number % len(records)])
    given: dict[str, JsonValue] = {"work": "read", "path": str(path)}
    return Case(
        name=f"read-{size}",
        title=f"Read {count:,} records of {size.replace('-', ' ')}",
        unit="records",
        contenders=(
            Contender(about="millrace.runtime.records.read_records", script="ours/tfrecord.py", arguments=given),
            _tensorflow("tf.data.TFRecordDataset, taken record by record", given),
            _tensorflow("tf.data.TFRecordDataset, taken by 256", {**given, "batch": 256}, "tensorflow, batches"),
        ),
        ratios=(
            Ratio(beside="tensorflow", target=1.0),
            Ratio(beside="tensorflow, batches", target=1.0),
            Ratio(beside="tensorflow", metric="peak_bytes"),
        ),
    )


def _tensorflow(about: str, arguments: dict[str, JsonValue], name: str = "tensorflow") -> Contender:
    return Contender(
        name=name,
        about=about,
        script="peers/tfrecord_tensorflow.py",
        environment="tensorflow",
        arguments=arguments,
        packages=("tensorflow",),
    )
