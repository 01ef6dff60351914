"""Writing and reading TFRecord files beside TensorFlow, and who can read what we write.

The shortest suite: look here for how one is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from benchmarks.picture_records import write_picture_records
from benchmarks.plan import Case, Contender, Limit, Measured, Ratio, Setting
from benchmarks.results import Check
from benchmarks.some_records import some_records
from millrace.runtime.records import RecordWriter, counts
from millrace.runtime.schemas import ImageRecords, read_json_model

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "TFRecord files"
ABOUT = "Records of three sizes are written to a file and read again by one process on one core, with checksums."

_SIZES = {"100-bytes": (100, 1_000_000), "2-kB": (2_000, 300_000), "20-kB": (20_000, 40_000)}
"""Bytes of a record, and how many of them are a measurement."""
_QUICK_RECORDS = 500
_READERS = {
    "tf.data": ("records_tensorflow", "tensorflow"),
    "the package tfrecord": ("records_package", "tfrecord"),
    "tensorflow-datasets": ("records_datasets", "tensorflow-datasets"),
}
"""Others that shall read records of pictures: scripts and environments."""
_PICTURES, _QUICK_PICTURES, _SIDE = 200, 20, 64


def cases(setting: Setting) -> Iterator[Case]:
    """Write and read, for each size; then records of pictures, by other readers."""
    for size, (length, full) in _SIZES.items():
        count = setting.size(full, _QUICK_RECORDS)
        if setting.wants(f"write-{size}"):
            yield _write(size, length, count, setting)
        if setting.wants(f"read-{size}"):
            yield _read(size, length, count, setting.scratch / f"{size}.tfrecord")
    if setting.wants("readers"):
        yield _readers(setting)


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


def _readers(setting: Setting) -> Case:
    folder = setting.scratch / "records"
    count = setting.size(_PICTURES, _QUICK_PICTURES)
    write_picture_records(setting.photographs(count), folder, _SIDE, "jpeg")
    schema = read_json_model(folder / "schema.json", ImageRecords)
    shards = counts(folder, "train")
    given: dict[str, JsonValue] = {
        "folder": str(folder),
        "files": [shard.file for shard in shards],
        "counts": [shard.records for shard in shards],
        "shape": list(schema.shape),
        "classes": list(schema.classes),
    }

    def checks(_found: Measured) -> Iterator[Check]:
        for name, (script, environment) in _READERS.items():
            reader = Contender(
                name=name, about=name, script=f"peers/{script}.py", environment=environment, arguments=given
            )
            yield setting.check(f"{name} reads all pictures, labels and URIs", reader, count)

    return Case(
        name="readers",
        title="Records of pictures, read by others",
        unit="records",
        contenders=(
            Contender(about="millrace.runtime.records.read_images", script="ours/records.py", arguments=given),
        ),
        limits=(Limit(figure="work", least=count, most=count),),
        rounds=1,
        checks=checks,
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
