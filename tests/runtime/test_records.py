"""Record files: written whole, checked when read, and exchangeable with TensorFlow's own."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.errors import DataError
from millrace.runtime.records import (
    FeatureRecord,
    ImageRecord,
    RecordWriter,
    counts,
    pack,
    read_images,
    read_records,
    unpack,
)
from millrace.runtime.schemas import ShardCounts

RECORDS = [b"first", b"", b"\x00\xff" * 40_000]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.tfrecord"
    with RecordWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (writer.records, writer.bytes) == (3, path.stat().st_size)
    return path


def test_what_is_written_is_read(file: Path) -> None:
    assert list(read_records(file)) == RECORDS


@pytest.mark.parametrize("skip", range(5))
def test_records_can_be_passed_over(file: Path, skip: int) -> None:
    assert list(read_records(file, skip)) == RECORDS[skip:]


def test_records_beyond_a_block_are_found(tmp_path: Path) -> None:
    records = [bytes([number]) * 700_000 for number in range(7)]
    with RecordWriter(tmp_path / "large.tfrecord") as writer:
        for record in records:
            writer.write(record)
    for skip in (1, 4, 6, 7):
        assert list(read_records(tmp_path / "large.tfrecord", skip)) == records[skip:]


def test_what_is_passed_over_may_be_damaged_but_for_its_length(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(RECORDS[0])] ^= 1
    file.write_bytes(content)
    assert list(read_records(file, 1)) == RECORDS[1:]
    with pytest.raises(DataError, match="checksum of the record's data"):
        list(read_records(file))


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "empty.tfrecord"):
        pass
    assert list(read_records(tmp_path / "empty.tfrecord")) == []


def test_the_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "some.tfrecord"
    with RecordWriter(path) as writer:
        writer.write(b"x")
        assert not path.exists()
    assert path.exists()


def test_a_failed_block_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with RecordWriter(tmp_path / "some.tfrecord") as writer:
            writer.write(b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.tfrecord: No such file"):
        list(read_records(tmp_path / "absent.tfrecord"))


@pytest.mark.parametrize("cut", [1, 4, 10, 80_003, 80_010])
def test_a_cut_off_file_is_refused_after_its_whole_records(file: Path, cut: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-cut])
    reader = read_records(file)
    assert [next(reader), next(reader)] == RECORDS[:2]
    with pytest.raises(DataError, match=r"some\.tfrecord is damaged at byte 37: it is cut off"):
        next(reader)


@pytest.mark.parametrize(("byte", "what"), [(0, "length"), (7, "length"), (9, "length"), (13, "data"), (18, "data")])
def test_a_changed_byte_is_noticed(file: Path, byte: int, what: str) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"damaged at byte 0: the checksum of the record's {what} does not match"):
        list(read_records(file))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 48), value=st.integers(1, 255))
def test_no_single_changed_byte_goes_unnoticed(tmp_path: Path, position: int, value: int) -> None:
    path = tmp_path / "small.tfrecord"
    with RecordWriter(path) as writer:
        writer.write(b"some")
        writer.write(b"thirteen byte")
    data = bytearray(path.read_bytes())
    data[position] ^= value
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        list(read_records(path))


BLOCK = 1 << 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.sampled_from([0, 1, 100, 5000, BLOCK // 2, *range(BLOCK - 33, BLOCK + 2), 2 * BLOCK + 7]), max_size=8
    )
)
def test_records_of_all_sizes_are_framed_as_one_by_one(tmp_path: Path, sizes: list[int]) -> None:
    import google_crc32c

    path = tmp_path / "sizes.tfrecord"
    records = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    assert list(read_records(path)) == records

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    lengths = [struct.pack("<Q", size) for size in sizes]
    framed = [
        length + masked(length) + record + masked(record) for length, record in zip(lengths, records, strict=True)
    ]
    assert path.read_bytes() == b"".join(framed)
    assert (writer.records, writer.bytes) == (len(sizes), path.stat().st_size)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=4),
    cut=st.floats(0, 1),
    tail=st.binary(max_size=40),
)
def test_whatever_a_file_holds(tmp_path: Path, changes: list[tuple[float, bytes]], cut: float, tail: bytes) -> None:
    path = tmp_path / "fuzzed.tfrecord"
    with RecordWriter(path) as writer:
        for number in range(3):
            writer.write(pack(ImageRecord(b"pixels" * 30, number, f"file:///{number}")))
    data = bytearray(path.read_bytes())
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    path.write_bytes(bytes(data[: int(cut * 1.2 * len(data))]) + tail)
    try:
        read = list(read_images(path))
    except DataError:
        return
    assert all(record.uri == f"file:///{record.label}" for record in read)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=5)), min_size=1, max_size=5),
    cut=st.integers(0, 200),
)
def test_whatever_a_record_holds(changes: list[tuple[float, bytes]], cut: int) -> None:
    data = bytearray(pack(ImageRecord(b"pixels", -5, "file:///a")))
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    try:
        record = unpack(bytes(data[:cut]))
    except DataError:
        return
    assert isinstance(record.uri, str)
    assert unpack(pack(record)) == record


def test_an_image_record_survives_packing() -> None:
    record = ImageRecord(image=b"\x89PNG", label=7, uri="s3://bucket/käse/ß.png")
    assert unpack(pack(record)) == record
    assert pack(record) == pack(record)


@pytest.mark.parametrize("record", [b"", b"\xff\xff", b"not an example"])
def test_another_message_is_no_image_record(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "other.tfrecord"
    with RecordWriter(path) as writer:
        writer.write(pack(ImageRecord(b"x", 1, "u")))
        writer.write(record)
    with pytest.raises(DataError, match=r"other.tfrecord: record 1: a record is no image record"):
        list(read_images(path))


def shard(folder: Path, name: str, records: int) -> ShardCounts:
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for number in range(records):
            writer.write(pack(ImageRecord(b"x", number, f"file:///{number}")))
    made = ShardCounts(file=f"{name}.tfrecord", channel="train", records=records, bytes=writer.bytes)
    (folder / f"{name}.json").write_text(made.model_dump_json())
    return made


class TestCounts:
    def test_are_in_shard_order(self, tmp_path: Path) -> None:
        made = [shard(tmp_path, f"train-{index:05d}-of-00003", index) for index in (2, 0, 1)]
        (tmp_path / "schema.json").write_text("{}")
        assert counts(tmp_path, "train") == (made[1], made[2], made[0])
        assert counts(tmp_path, "test") == ()

    def test_refuse_a_missing_shard(self, tmp_path: Path) -> None:
        shard(tmp_path, "train-00001-of-00003", 1)
        with pytest.raises(DataError, match=r"channel 'train' lacks 2 of 3 shards: \[0, 2\]"):
            counts(tmp_path, "train")

    def test_refuse_shards_of_two_plans(self, tmp_path: Path) -> None:
        shard(tmp_path, "train-00000-of-00001", 1)
        shard(tmp_path, "train-00001-of-00002", 1)
        with pytest.raises(DataError, match=r"several plans are mixed in channel 'train': of \[1, 2\]"):
            counts(tmp_path, "train")

    def test_refuse_a_file_of_another_size(self, tmp_path: Path) -> None:
        made = shard(tmp_path, "train-00000-of-00001", 3)
        with (tmp_path / made.file).open("ab") as stream:
            stream.write(b"!")
        with pytest.raises(DataError, match=rf"has {made.bytes + 1} bytes, .* says {made.bytes}: copy it again"):
            counts(tmp_path, "train")

    def test_refuse_a_missing_file(self, tmp_path: Path) -> None:
        made = shard(tmp_path, "train-00000-of-00001", 3)
        (tmp_path / made.file).unlink()
        with pytest.raises(DataError, match=r"train-00000-of-00001\.tfrecord is missing"):
            counts(tmp_path, "train")


class TestTensorFlow:
    """In the same process: both have a message called tensorflow.Example."""

    def test_parses_our_records(self, tmp_path: Path) -> None:
        record = ImageRecord(image=b"\x00\x01\xff", label=-3, uri="file:///a%20b")
        with RecordWriter(tmp_path / "ours.tfrecord") as writer:
            writer.write(pack(record))
        import tensorflow as tf

        (serialized,) = (bytes(item.numpy()) for item in tf.data.TFRecordDataset(str(tmp_path / "ours.tfrecord")))
        parsed = tf.train.Example.FromString(serialized).features.feature
        assert parsed["image"].bytes_list.value[0] == record.image
        assert parsed["label"].int64_list.value[0] == record.label
        assert parsed["uri"].bytes_list.value[0] == record.uri.encode()
        assert unpack(serialized) == record

    def test_parses_our_features(self) -> None:
        import tensorflow as tf

        values = np.array([1.5, -2.25, np.nan, np.inf, 1e-30], np.float32)
        serialized = pack(FeatureRecord(features=values, label=2, uri="file:///t.csv#row=4"))
        form = {
            "features": tf.io.FixedLenFeature([5], tf.float32),
            "label": tf.io.FixedLenFeature([], tf.int64),
            "uri": tf.io.FixedLenFeature([], tf.string),
        }
        parsed = tf.io.parse_single_example(serialized, form)
        np.testing.assert_array_equal(parsed["features"].numpy(), values)
        assert (int(parsed["label"]), bytes(parsed["uri"].numpy())) == (2, b"file:///t.csv#row=4")
        assert pack(FeatureRecord(values.tolist(), 2, "file:///t.csv#row=4")) == serialized

    def test_records_are_read_by_us(self, tmp_path: Path) -> None:
        import tensorflow as tf

        def feature(value: bytes) -> tf.train.Feature:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[5]))
        features = {"image": feature(b"pixels"), "uri": feature(b"s3://b/k"), "label": label}
        example = tf.train.Example(features=tf.train.Features(feature=features))
        path = tmp_path / "theirs.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(example.SerializeToString())
            writer.write(example.SerializeToString())
        assert list(read_images(path)) == [ImageRecord(b"pixels", 5, "s3://b/k")] * 2

    def test_framing_is_byte_for_byte_the_same(self, tmp_path: Path, file: Path) -> None:
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
            for record in RECORDS:
                writer.write(record)
        assert (tmp_path / "theirs.tfrecord").read_bytes() == file.read_bytes()

    def test_is_not_needed(self) -> None:
        code = (
            "import sys; from millrace.runtime.records import *; pack(ImageRecord(b'', 0, '')); "
            "import millrace.runtime.datasets; print('tensorflow' in sys.modules)"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "False"


def test_a_length_that_claims_more_than_the_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    import google_crc32c

    length = struct.pack("<Q", 2**62)
    crc = google_crc32c.value(length)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    path = tmp_path / "huge.tfrecord"
    path.write_bytes(length + struct.pack("<I", masked) + b"abc")
    with pytest.raises(DataError, match="cut off"):
        list(read_records(path))
