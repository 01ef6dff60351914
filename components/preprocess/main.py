"""Stream each shard's objects through the decoder into a record file."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import polars

from millrace.components.preprocess.spec import ImageData, PreprocessInputs, PreprocessOutputs, PreprocessParameters
from millrace.errors import ConfigError, DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.images import ImageRejected, decode_image, encode_image
from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ImageRecords, ShardCounts, ShardPlan, read_json_model
from millrace.runtime.storage import process_many
from millrace.runtime.task import write_atomically
from millrace.specs import Dataset

__all__ = ["main"]

_COLUMNS = ("uri", "label", "content", "dataset_path")
_REJECTS = {"uri": polars.String, "reason": polars.String, "detail": polars.String}
_SHOWN = 5


class _Shard(NamedTuple):
    """One of this worker's shards."""

    channel: Channel
    file: Path
    objects: int


class _Converted(NamedTuple):
    content: str
    """SHA-256 of the object's bytes."""
    image: bytes | ImageRejected


class _Reject(NamedTuple):
    uri: str
    reason: str
    detail: str


_Process = Callable[[Iterable[str]], Iterator[tuple[str, _Converted | Exception]]]


class _Tally:
    """Counts over the worker's whole share, and the end of its patience."""

    def __init__(self, total: int, max_error_rate: float) -> None:
        self.total = total
        self.seen = 0
        self.rejected = 0
        self._reasons: Counter[str] = Counter()
        self._first: list[_Reject] = []
        self._rate = max_error_rate
        self._allowed = ceil(max_error_rate * total - 1e-9)  # 0.1 * 30 is a little more than 3

    def reject(self, reject: _Reject) -> None:
        """Count one.

        Raises:
            DataError: When it is one too many.
        """
        self.rejected += 1
        self._reasons[reject.reason] += 1
        if len(self._first) < _SHOWN:
            self._first.append(reject)
        if self.rejected <= self._allowed:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        first = "\n".join(f"  {item.uri}: {item.reason}: {item.detail}" for item in self._first)
        raise DataError(
            f"{self.rejected} of the first {self.seen} objects were rejected ({reasons}); max_error_rate="
            f"{self._rate:g} allows {self._allowed} of this worker's {self.total}. Remove or mend them, or set "
            f"preprocess.max_error_rate higher. The log names each; the first:\n{first}"
        )


def main(
    parameters: PreprocessParameters, inputs: PreprocessInputs, outputs: PreprocessOutputs, context: Context
) -> Result:
    """Make the record files of this worker's share of the shards.

    Finished shards are kept among the checkpoints, so that a later attempt goes on after them.
    """
    plan = read_json_model(inputs.shards.path / "plan.json", ShardPlan)
    shards = _shards(inputs.shards.path, plan)[context.share.index :: context.share.count]
    schema = _schema(parameters, plan.classes)
    write_atomically(outputs.records.path / "schema.json", schema.model_dump_json(indent=2) + "\n")
    tally = _Tally(sum(shard.objects for shard in shards), parameters.max_error_rate)
    # many threads read, few decode: decoded pictures are large, and so is what malloc keeps for each thread
    with ThreadPoolExecutor(context.cores, thread_name_prefix="decode") as decoders:

        def process(uris: Iterable[str]) -> Iterator[tuple[str, _Converted | Exception]]:
            def convert(data: bytes) -> _Converted:
                return decoders.submit(_convert, data, schema, parameters.data).result()

            return process_many(uris, convert, concurrency=parameters.concurrency)

        for shard in shards:
            kept = context.checkpoints / _fingerprint(shard.file, schema, parameters)
            if kept.exists():
                _recount(kept, shard.file.stem, tally)
            else:
                rows = _rows(shard, inputs.dataset)
                _convert_shard(shard, rows, kept, process, tally, context, schema.classes)
            _publish(kept, outputs)
    context.log.info("%d shards, %d objects, %d of them rejected", len(shards), tally.total, tally.rejected)
    return Result()


def _shards(source: Path, plan: ShardPlan) -> list[_Shard]:
    """The shards that are here, by file name; on some targets a host is given its own ones only."""
    planned: dict[str, tuple[Channel, int]] = {
        item.file: (channel, item.objects) for channel, items in plan.shards.items() for item in items
    }
    files = sorted((source / "shards").glob("*.parquet"))
    unknown = [file.name for file in files if file.name not in planned]
    if unknown or not files:
        what = f"holds files that plan.json does not name: {unknown[:_SHOWN]}" if unknown else "has no shard files"
        raise DataError(f"{source / 'shards'} {what}; give the whole output of the shard component")
    return [_Shard(planned[file.name][0], file, planned[file.name][1]) for file in files]


def _schema(parameters: PreprocessParameters, classes: tuple[str, ...]) -> ImageRecords:
    shared = parameters.data.model_dump(include=set(ImageRecords.model_fields))
    return ImageRecords(**shared, classes=classes)


def _convert(data: bytes, schema: ImageRecords, form: ImageData) -> _Converted:
    content = hashlib.sha256(data).hexdigest()
    try:
        pixels = decode_image(data, schema, max_pixels=form.max_pixels)
    except ImageRejected as error:
        return _Converted(content, error)
    return _Converted(content, encode_image(pixels, schema, quality=form.quality))


def _fingerprint(file: Path, schema: ImageRecords, parameters: PreprocessParameters) -> str:
    """A folder name that changes with whatever the shard's record file depends on."""
    given = hashlib.sha256(file.read_bytes())
    given.update(schema.model_dump_json().encode())
    given.update(parameters.data.model_dump_json().encode())
    return f"{file.stem}-{given.hexdigest()[:16]}"


def _rows(shard: _Shard, dataset: Dataset | None) -> polars.DataFrame:
    """The shard's objects; `place` is where each is read.

    Raises:
        ConfigError: When some are in a dataset that is not given.
        DataError: When there are more or fewer than planned.
    """
    there = polars.read_parquet_schema(shard.file)  # tables that other tools wrote know of no datasets
    rows = polars.read_parquet(shard.file, columns=[name for name in _COLUMNS if name in there])
    if rows.height != shard.objects:
        raise DataError(f"{shard.file} has {rows.height} objects, plan.json says {shard.objects}; run shard again")
    if "dataset_path" not in there or rows["dataset_path"].null_count() == rows.height:
        return rows.with_columns(place="uri")
    if dataset is None:
        raise ConfigError(
            f"the shards name objects of a dataset that an earlier task made, {rows['uri'][0]} for one: "
            f"preprocess needs the same input `dataset` as manifest"
        )
    inside = polars.lit(f"{dataset.path.absolute().as_uri()}/") + polars.col("dataset_path")
    return rows.with_columns(place=polars.coalesce(inside, "uri"))


def _convert_shard(
    shard: _Shard,
    rows: polars.DataFrame,
    kept: Path,
    process: _Process,
    tally: _Tally,
    context: Context,
    classes: tuple[str, ...],
) -> None:
    """Make one shard's files in a folder that gets the name `kept` when it is whole."""
    name = shard.file.stem
    folder = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rejects: list[_Reject] = []
    labels: Counter[int] = Counter()
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for row, (_, result) in zip(rows.iter_rows(named=True), process(rows["place"]), strict=True):
            tally.seen += 1
            image = _usable(row, result)
            if isinstance(image, _Reject):
                context.log.warning("rejected %s: %s: %s", *image)
                rejects.append(image)
                tally.reject(image)
            else:
                writer.write(pack(ImageRecord(image=image, label=row["label"], uri=row["uri"])))
                labels[row["label"]] += 1
            context.progress(tally.seen, tally.total, "images")
    polars.DataFrame(rejects, schema=_REJECTS, orient="row").write_parquet(folder / f"rejects-{name}.parquet")
    counted = ShardCounts(
        file=f"{name}.tfrecord",
        channel=shard.channel,
        records=writer.records,
        bytes=writer.bytes,
        rejected=len(rejects),
        by_class={classes[label]: labels[label] for label in sorted(labels)},
    )
    (folder / f"{name}.json").write_text(counted.model_dump_json(indent=2) + "\n")
    folder.replace(kept)


def _usable(row: dict[str, Any], result: _Converted | Exception) -> bytes | _Reject:
    """The encoded picture, or why there is none.

    Raises:
        Exception: What is no fault of the object's: the store is down, or reading is not allowed any more.
    """
    uri: str = row["uri"]
    if isinstance(result, DataError):
        return _Reject(uri, "missing", str(result))
    if isinstance(result, Exception):
        raise result
    if row["content"] and result.content != row["content"]:
        detail = f"its SHA-256 was {row['content'][:12]}... when it was listed and is {result.content[:12]}... now"
        return _Reject(uri, "changed", detail)
    if isinstance(result.image, ImageRejected):
        return _Reject(uri, result.image.reason, result.image.detail)
    return result.image


def _recount(kept: Path, name: str, tally: _Tally) -> None:
    """Count a shard that an earlier attempt finished."""
    tally.seen += read_json_model(kept / f"{name}.json", ShardCounts).records
    for row in polars.read_parquet(kept / f"rejects-{name}.parquet").iter_rows():
        tally.seen += 1
        tally.reject(_Reject(*row))


def _publish(kept: Path, outputs: PreprocessOutputs) -> None:
    for file in sorted(kept.iterdir()):
        folder = outputs.rejects.path if file.suffix == ".parquet" else outputs.records.path
        try:
            (folder / file.name).hardlink_to(file)
        except OSError:  # the checkpoints are on another file system, or it has no links
            shutil.copyfile(file, folder / file.name)
