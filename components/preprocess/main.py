"""Make a record file of each shard, or take it from an earlier attempt or an earlier run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import polars

from millrace.components.preprocess.earlier import Earlier, find_earlier, take_earlier
from millrace.components.preprocess.kinds import Kind, open_kind
from millrace.components.preprocess.rejects import Reject, Tally, is_passing, read_rejects, write_rejects
from millrace.components.preprocess.shards import Shard, find_shards, made_from, read_rows, would_show
from millrace.components.preprocess.spec import PreprocessInputs, PreprocessOutputs, PreprocessParameters
from millrace.runtime.context import Context, Result
from millrace.runtime.records import RecordWriter
from millrace.runtime.schemas import ShardCounts, ShardPlan, read_json_model
from millrace.runtime.task import write_atomically
from millrace.runtime.union import hard_link

__all__ = ["main"]


class _Work(NamedTuple):
    """A shard and what is made of it."""

    shard: Shard
    digest: str
    kept: Path
    """The folder that its files shall be in when they are whole."""


def main(
    parameters: PreprocessParameters, inputs: PreprocessInputs, outputs: PreprocessOutputs, context: Context
) -> Result:
    """Make the record files of this worker's share of the shards.

    Finished shards are kept among the checkpoints, so that a later attempt goes on after them.
    """
    plan = read_json_model(inputs.shards.path / "plan.json", ShardPlan)
    shards = find_shards(inputs.shards.path, plan)[context.share.index :: context.share.count]
    kind = open_kind(parameters, inputs, plan, context)
    for name, data in kind.files.items():
        (outputs.records.path / name).write_bytes(data)
    write_atomically(outputs.records.path / "schema.json", kind.schema.model_dump_json(indent=2) + "\n")
    tally = Tally(sum(shard.objects for shard in shards), parameters.max_error_rate)
    work = [_work(shard, kind, parameters, inputs, context) for shard in shards]
    for item in work:
        _forget_passing(item)
    missing = {item.digest for item in work if not item.kept.exists()}
    earlier = find_earlier(parameters.previous, missing, context)
    left: list[_Work] = []
    for item in work:
        if item.kept.exists() or _taken(earlier.get(item.digest), item):
            _recount(item.kept, item.shard.name, tally)
            _publish(item.kept, outputs)
        else:
            left.append(item)
    progress = _Progress(context, tally.total - tally.seen, kind.unit)
    for item in left:
        rows = read_rows(item.shard, inputs.dataset)
        _make(item, rows, kind, tally, progress)
        _publish(item.kept, outputs)
    made, taken = len(left), len(work) - len(left)
    context.log.info(
        "%d shards made, %d kept from before; %d objects, %d of them rejected", made, taken, tally.total, tally.rejected
    )
    return Result(metrics={"shards_made": made, "shards_kept": taken})


class _Progress:
    """Counts only what is made now: the pace of what was there before says nothing about the rest."""

    def __init__(self, context: Context, total: int, unit: str) -> None:
        self.context = context
        self._total = total
        self._unit = unit
        self._done = 0

    def one(self) -> None:
        self._done += 1
        self.context.progress(self._done, self._total, self._unit)


@contextmanager
def _whole(kept: Path) -> Iterator[Path]:
    """A folder that gets the name `kept` when it is whole."""
    folder = _partial(kept)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        folder.replace(kept)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _partial(kept: Path) -> Path:
    return kept.with_name(f".{kept.name}.partial")


def _work(
    shard: Shard, kind: Kind, parameters: PreprocessParameters, inputs: PreprocessInputs, context: Context
) -> _Work:
    digest = made_from(read_rows(shard, inputs.dataset), kind, parameters)
    return _Work(shard, digest, context.checkpoints / f"{shard.name}-{digest[:16]}")


def _taken(earlier: Earlier | None, work: _Work) -> bool:
    """Whether the shard could be taken from an earlier run."""
    if earlier is None:
        return False
    with _whole(work.kept) as folder:
        take_earlier(earlier, work.shard, folder)
    return True


def _forget_passing(work: _Work) -> None:
    """Set a shard of an earlier attempt aside when objects were missing or changed then: they may be there now."""
    kept = work.kept
    if not kept.exists() or not any(map(is_passing, read_rejects(kept / f"rejects-{work.shard.name}.parquet"))):
        return
    partial = _partial(kept)  # first of all it loses its name: this may be killed in between
    shutil.rmtree(partial, ignore_errors=True)
    kept.replace(partial)
    shutil.rmtree(partial)


def _make(work: _Work, rows: polars.DataFrame, kind: Kind, tally: Tally, progress: _Progress) -> None:
    """Make one shard's files."""
    name = work.shard.name
    rejects: list[Reject] = []
    labels: Counter[int] = Counter()
    with _whole(work.kept) as folder:
        with RecordWriter(folder / f"{name}.tfrecord") as writer:
            for label, record in zip(rows["label"], kind.convert(rows), strict=True):
                tally.seen += 1
                if isinstance(record, Reject):
                    progress.context.log.warning("rejected %s: %s: %s", *record)
                    rejects.append(record)
                    tally.reject(record)
                else:
                    writer.write(record)
                    labels[label] += 1
                progress.one()
        write_rejects(folder / f"rejects-{name}.parquet", rejects)
        counted = ShardCounts(
            file=f"{name}.tfrecord",
            channel=work.shard.channel,
            records=writer.records,
            bytes=writer.bytes,
            rejected=len(rejects),
            by_class={kind.schema.classes[label]: labels[label] for label in sorted(labels)},
            made_from=work.digest if would_show(rows) and not any(map(is_passing, rejects)) else "",
        )
        (folder / f"{name}.json").write_text(counted.model_dump_json(indent=2) + "\n")


def _recount(kept: Path, name: str, tally: Tally) -> None:
    """Count a shard that is there already."""
    tally.seen += read_json_model(kept / f"{name}.json", ShardCounts).records
    for reject in read_rejects(kept / f"rejects-{name}.parquet"):
        tally.seen += 1
        tally.reject(reject)


def _publish(kept: Path, outputs: PreprocessOutputs) -> None:
    for file in sorted(kept.iterdir()):
        folder = outputs.rejects.path if file.suffix == ".parquet" else outputs.records.path
        hard_link(file, folder / file.name)
