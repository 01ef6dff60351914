"""Pictures: read ahead by many threads, decoded by few."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import polars

from millrace.components.preprocess.rejects import Reject
from millrace.components.preprocess.spec import ImageData, PreprocessInputs, PreprocessParameters
from millrace.errors import ConfigError, DataError
from millrace.runtime.bucket_errors import ChangedError
from millrace.runtime.context import Context
from millrace.runtime.images import ImageRejected, convert_image
from millrace.runtime.records import ImageRecord, pack
from millrace.runtime.schemas import ImageRecords, ShardPlan
from millrace.runtime.storage import Listed, process_many

__all__ = ["open_pictures"]

_STORES = ("s3://", "gs://")


class _Row(NamedTuple):
    uri: str
    key: str | None
    label: int
    content: str | None
    size: int | None
    etag: str | None
    version: str | None
    place: str


class _Converted(NamedTuple):
    content: str
    """SHA-256 of the object's bytes; empty where none of the shard's objects has one to compare it with."""
    image: bytes | ImageRejected


def open_pictures(
    parameters: PreprocessParameters, inputs: PreprocessInputs, plan: ShardPlan, context: Context
) -> _Pictures:
    """Pictures of the form that `preprocess.data` asks for.

    Raises:
        ConfigError: When it asks for something else.
    """
    if not isinstance(parameters.data, ImageData):
        raise ConfigError(f"preprocess.data.kind {parameters.data.kind!r} is not image")
    return _Pictures(parameters.data, plan.classes, parameters.concurrency, context.cores)


class _Pictures:
    unit = "images"

    def __init__(self, form: ImageData, classes: tuple[str, ...], concurrency: int, cores: int) -> None:
        shared = form.model_dump(include=set(ImageRecords.model_fields))
        self.schema = ImageRecords(**shared, classes=classes)
        self.files: Mapping[str, bytes] = {}
        self._form = form
        self._concurrency = concurrency
        self._cores = cores

    def convert(self, rows: polars.DataFrame) -> Iterator[bytes | Reject]:
        table = rows.select(_Row._fields)
        hashed = table["content"].null_count() < len(table)
        convert = partial(self._convert, hashed=hashed)
        items = (_item(_Row._make(row)) for row in table.iter_rows())
        for row, made in zip(table.iter_rows(), self._made(items, convert), strict=True):
            yield _record(_Row._make(row), made)

    def _made(
        self, items: Iterator[str | Listed], convert: Callable[[bytes], _Converted]
    ) -> Iterator[_Converted | Exception]:
        """What becomes of the objects, in order."""
        if self._cores == 1:  # to hand each picture to another thread takes time, and there is no core for that
            for _, data in process_many(items, bytes, concurrency=self._concurrency):
                yield data if isinstance(data, Exception) else convert(data)
            return
        # many threads read, few decode: decoded pictures are large, and so is what malloc keeps for each thread
        with ThreadPoolExecutor(self._cores, thread_name_prefix="decode") as decoders:

            def process(data: bytes) -> Future[_Converted]:
                return decoders.submit(convert, data)  # not waited for: the thread is free for the next object

            for _, result in process_many(items, process, concurrency=self._concurrency):
                yield result if isinstance(result, Exception) else result.result()

    def _convert(self, data: bytes, *, hashed: bool) -> _Converted:
        content = hashlib.sha256(data).hexdigest() if hashed else ""
        form = self._form
        try:
            image = convert_image(data, self.schema, max_pixels=form.max_pixels, quality=form.quality)
        except ImageRejected as error:
            return _Converted(content, error)
        return _Converted(content, image)


def _item(row: _Row) -> str | Listed:
    """What is read; a store is asked for the object that was listed where only its etag can tell another."""
    place = row.place
    if row.content or not row.etag or row.size is None or not place.startswith(_STORES):
        return place
    return Listed(place, row.key or "", row.size, 0, row.etag, row.version)


def _record(row: _Row, result: _Converted | Exception) -> bytes | Reject:
    """The record of a picture, or why there is none.

    Raises:
        Exception: What is no fault of the object's.
    """
    uri = row.uri
    if isinstance(result, ChangedError):
        return Reject(uri, "changed", str(result))
    if isinstance(result, DataError):
        return Reject(uri, "missing", str(result))
    if isinstance(result, Exception):
        raise result
    if row.content and result.content != row.content:
        detail = f"its SHA-256 was {row.content[:12]}... when it was listed and is {result.content[:12]}... now"
        return Reject(uri, "changed", detail)
    if isinstance(result.image, ImageRejected):
        return Reject(uri, result.image.reason, result.image.detail)
    return pack(ImageRecord(image=result.image, label=row.label, uri=uri))
