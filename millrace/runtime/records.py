"""Record files without TensorFlow: TFRecord framing, tf.train.Example messages, counts.

Formats: [TFRecord](https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details) and
tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from millrace.errors import DataError
from millrace.runtime.schemas import Channel, ShardCounts, read_json_model

__all__ = [
    "FeatureRecord",
    "ImageRecord",
    "RecordWriter",
    "TextRecord",
    "counts",
    "pack",
    "read_images",
    "read_records",
    "record_uri",
    "unpack",
]

_LENGTH = Struct("<Q")
_CRC = Struct("<I")
_HEADER = _LENGTH.size + _CRC.size
_FRAMING = _HEADER + _CRC.size
_MASK = 0xA282EAD8
_BLOCK = 1 << 20
_LENGTHS = 1 << 14
_SHARD = re.compile(r"(?P<channel>[a-z]+)-(?P<index>\d{5,})-of-(?P<total>\d{5,})\.json")


class ImageRecord(NamedTuple):
    """One picture of a record file."""

    image: bytes
    """In the form that the schema's `encoding` names."""
    label: int
    uri: str
    """The object it was made from."""


class TextRecord(NamedTuple):
    """One text of a record file."""

    tokens: Sequence[int]
    """Ids, `[CLS]` and `[SEP]` included, not padded."""
    label: int
    uri: str
    """The file it was in, with `#row=NUMBER` (from 0)."""


class FeatureRecord(NamedTuple):
    """One row of a table in a record file."""

    features: Sequence[float] | NDArray[np.float32]
    """What became of its columns, [width]."""
    label: int
    uri: str
    """The file it was in, with `#row=NUMBER` (from 0)."""


class RecordWriter:
    """Writes a TFRecord file that appears under its name only when it is whole.

    Use it in a `with` block; leaving the block with an exception leaves no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._stream: BinaryIO = self._partial.open("wb", buffering=0)
        self._pending: list[bytes] = []
        self._written = 0
        self.records = 0
        """Records so far."""
        self.bytes = 0
        """Bytes so far, framing included."""

    def write(self, record: bytes) -> None:
        """Append one record.

        Raises:
            OSError: When the disk is full; it may come later than the record that is one too many.
        """
        self._pending.append(record)
        self.records += 1
        self.bytes += len(record) + _FRAMING
        if self.bytes - self._written > _BLOCK:
            self._flush()

    def _flush(self) -> None:
        """Frame and write what is pending: many records at once take half the time of one after the other."""
        checks = np.fromiter(map(google_crc32c.value, self._pending), np.uint32, len(self._pending))
        masked = ((checks >> 15 | checks << 17) + np.uint32(_MASK)).astype("<u4").tobytes()
        parts: list[bytes] = []
        for number, record in enumerate(self._pending):
            parts += (_header(len(record)), record, masked[4 * number : 4 * number + 4])
        self._pending.clear()
        left = memoryview(b"".join(parts))
        while left:
            left = left[self._stream.write(left) :]
        self._written = self.bytes

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._stream.close()  # may fail: a full disk is noticed here at the latest
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._stream.close()
            self._partial.unlink(missing_ok=True)


def read_records(path: Path, skip: int = 0) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked against its checksums.

    Args:
        path: The file.
        skip: Records at its beginning to pass over, of which only the lengths are checked.

    Raises:
        DataError: When the file is missing, cut off or corrupt, with the offset in bytes.
    """
    try:
        size = path.stat().st_size
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with stream:
        block, offset, at = b"", 0, 0  # a part of the file, where it begins, and where we are in it
        while True:
            if len(block) - at < _HEADER:
                block, offset, at = block[at:] + stream.read(_BLOCK), offset + at, 0
                if not block:
                    return
            length = _record_length(block[at : at + _HEADER], path, offset + at)
            if offset + at + length + _FRAMING > size:
                end = offset + at + length + _FRAMING
                raise _damaged(path, offset + at, f"it is cut off: the record ends at byte {end}, the file at {size}")
            if at + length + _FRAMING > len(block):
                block, offset, at = block[at:] + stream.read(max(_BLOCK, length + _FRAMING)), offset + at, 0
            end = at + _HEADER + length
            if skip:
                skip, at = skip - 1, end + _CRC.size
                continue
            record = block[at + _HEADER : end]
            if len(block) < end + _CRC.size or _CRC.unpack_from(block, end)[0] != _masked_crc(record):
                raise _damaged(path, offset + at, "the checksum of the record's data does not match")
            yield record
            at = end + _CRC.size


def pack(record: ImageRecord | TextRecord | FeatureRecord) -> bytes:
    """A picture, a text or a row as a serialized tf.train.Example; the same bytes for the same record."""
    example = _example_class()()
    feature = example.features.feature
    if isinstance(record, ImageRecord):
        feature["image"].bytes_list.value.append(record.image)
    elif isinstance(record, TextRecord):
        feature["tokens"].int64_list.value.extend(record.tokens)
    else:
        feature["features"].float_list.value.extend(record.features)
    feature["label"].int64_list.value.append(record.label)
    feature["uri"].bytes_list.value.append(record.uri.encode())
    packed: bytes = example.SerializeToString(deterministic=True)
    return packed


def unpack(record: bytes) -> ImageRecord:
    """The picture in a serialized tf.train.Example.

    Raises:
        DataError: When it is not one, or lacks a feature.
    """
    try:
        feature = _example_class().FromString(record).features.feature
        (image,) = feature["image"].bytes_list.value
        (label,) = feature["label"].int64_list.value
        (uri,) = feature["uri"].bytes_list.value
        return ImageRecord(image=image, label=label, uri=uri.decode())
    except (DecodeError, ValueError) as error:
        raise DataError(
            f"a record is no image record: it needs one value each of image, label and uri: {error}"
        ) from error


def record_uri(record: bytes) -> str:
    """The URI of the object that a serialized tf.train.Example of any kind was made from.

    Raises:
        DataError: When it is none, or names no object.
    """
    try:
        (uri,) = _example_class().FromString(record).features.feature["uri"].bytes_list.value
        return str(uri.decode())
    except (DecodeError, ValueError) as error:
        raise DataError(f"a record names no object: {error}") from error


def read_images(path: Path) -> Iterator[ImageRecord]:
    """The pictures of a record file, in order.

    Raises:
        DataError: When the file is damaged or holds something else.
    """
    for position, record in enumerate(read_records(path)):
        try:
            image = unpack(record)
        except DataError as error:
            raise DataError(f"{path}: record {position}: {error}") from error
        yield image


def counts(records: Path, channel: Channel) -> tuple[ShardCounts, ...]:
    """What each record file of a channel holds, in shard order; empty when the channel has none.

    Raises:
        DataError: When a shard or its record file is missing, or its size is not what was written.
    """
    found: dict[int, ShardCounts] = {}
    totals: set[int] = set()
    for path in sorted(records.glob(f"{channel}-*.json")):
        match = _SHARD.fullmatch(path.name)
        if match is not None:
            found[int(match["index"])] = _checked(path, records)
            totals.add(int(match["total"]))
    if len(totals) > 1:
        raise DataError(f"{records}: shards of several plans are mixed in channel {channel!r}: of {sorted(totals)}")
    missing = sorted(set(range(max(totals, default=0))) - set(found))
    if missing:
        raise DataError(f"{records}: channel {channel!r} lacks {len(missing)} of {max(totals)} shards: {missing[:10]}")
    return tuple(found[index] for index in sorted(found))


def _checked(path: Path, records: Path) -> ShardCounts:
    shard = read_json_model(path, ShardCounts)
    file = records / shard.file
    size = file.stat().st_size if file.is_file() else None
    if size != shard.bytes:
        given = "is missing" if size is None else f"has {size} bytes"
        raise DataError(f"{file} {given}, {path.name} says {shard.bytes}: copy it again, or make the records anew")
    return shard


def _record_length(header: bytes, path: Path, offset: int) -> int:
    if len(header) < _HEADER:
        raise _damaged(path, offset, f"it is cut off: {len(header)} of {_HEADER} bytes of a record's header")
    length = _told_length(header)
    if length is None:
        raise _damaged(path, offset, "the checksum of the record's length does not match")
    return length


@lru_cache(_LENGTHS)
def _header(length: int) -> bytes:
    """What comes before a record of that length."""
    packed = _LENGTH.pack(length)
    return packed + _CRC.pack(_masked_crc(packed))


@lru_cache(_LENGTHS)
def _told_length(header: bytes) -> int | None:
    """What a header says; None when it is damaged."""
    length: int = _LENGTH.unpack_from(header)[0]
    return length if _CRC.unpack_from(header, _LENGTH.size)[0] == _masked_crc(header[: _LENGTH.size]) else None


def _damaged(path: Path, offset: int, what: str) -> DataError:
    return DataError(f"{path} is damaged at byte {offset}: {what}; make the records anew")


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


@cache
def _example_class() -> Any:
    """tf.train.Example in a pool of its own: TensorFlow registers the same names in the default pool."""
    file = FileDescriptorProto(name="millrace/example.proto", package="tensorflow", syntax="proto3")
    kinds = {
        "BytesList": FieldDescriptorProto.TYPE_BYTES,
        "FloatList": FieldDescriptorProto.TYPE_FLOAT,
        "Int64List": FieldDescriptorProto.TYPE_INT64,
    }
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(
            name="value", number=1, type=kind, label=FieldDescriptorProto.LABEL_REPEATED
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field, message) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        _add_message_field(feature, field, number, message).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(
        name="key", number=1, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    _add_message_field(entry, "value", 2, "Feature")
    _add_message_field(features, "feature", 1, "Features.FeatureEntry").label = FieldDescriptorProto.LABEL_REPEATED
    _add_message_field(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _add_message_field(message: DescriptorProto, name: str, number: int, kind: str) -> FieldDescriptorProto:
    return message.field.add(
        name=name,
        number=number,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=f".tensorflow.{kind}",
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
