"""Small records of table rows for tests of training and serving: birds, each class with measures of its own."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.runtime.columns import BinnedColumn, CategoryColumn, DateColumn, FittedColumn, HashedColumn, NumericColumn
from millrace.runtime.records import FeatureRecord, RecordWriter, pack
from millrace.runtime.schemas import Channel, ShardCounts, TabularRecords
from millrace.runtime.tabular import row_features

CLASSES = ("adelie", "chinstrap", "gentoo")
ISLANDS = ("Biscoe", "Dream")
_MEANS = ((39.0, 3700), (49.0, 3700), (47.5, 5000))
COLUMNS: tuple[FittedColumn, ...] = (
    NumericColumn(name="bill", shift=44.0, scale=5.0, missing=44.5, indicator=True),
    BinnedColumn(name="mass", edges=(3500.0, 4300.0)),
    CategoryColumn(name="island", values=ISLANDS),
    HashedColumn(name="ring", buckets=4),
    DateColumn(name="seen", format=None, parts=("days", "month"), shifts={"days": 14_000.0}, scales={"days": 300.0}),
)
SCHEMA = TabularRecords(columns=COLUMNS, ignored=("id", "species"), classes=CLASSES)


def bird(label: int, number: int) -> dict[str, Any]:
    """A row: measures that mostly tell its class, and now and then nothing."""
    random = np.random.default_rng([label, number])
    bill, mass = _MEANS[label]
    return {
        "bill": None if number % 9 == 8 else round(float(random.normal(bill, 2)), 1),
        "mass": int(random.normal(mass, 300)),
        "island": (*ISLANDS, "Torgersen", None)[random.integers(4)],
        "ring": f"r{random.integers(1000)}",
        "seen": (datetime.date(2007, 11, 1) + datetime.timedelta(days=int(random.integers(800)))).isoformat(),
    }


def write_table(path: Path, numbers: range, classes: Sequence[int] = (0, 1, 2)) -> Path:
    """A CSV table of these rows with their species, the classes one after the other in each group of rows."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["species", *bird(0, 0)])
        writer.writeheader()
        writer.writerows({"species": CLASSES[label], **bird(label, number)} for number in numbers for label in classes)
    return path


def write_tabular_records(
    folder: Path,
    *,
    train: tuple[int, int, int] = (40, 30, 24),
    validation: tuple[int, int, int] = (8, 8, 8),
    test: tuple[int, int, int] = (12, 12, 12),
) -> Path:
    """A Records artifact with that many rows of each class, in two shards a channel."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(SCHEMA.model_dump_json())
    sizes: dict[Channel, tuple[int, int, int]] = {"train": train, "validation": validation, "test": test}
    first = 0
    for channel, of_class in sizes.items():
        items = [(label, first + number) for label, size in enumerate(of_class) for number in range(size)]
        first += max(of_class)
        for shard in range(2 if items else 0):
            _write_shard(folder, channel, shard, items[shard::2])
    return folder


def _write_shard(folder: Path, channel: Channel, shard: int, items: list[tuple[int, int]]) -> None:
    name = f"{channel}-{shard:05d}-of-00002"
    vectors = row_features([bird(*item) for item in items], SCHEMA)
    with RecordWriter(folder / f"{name}.tfrecord") as writer:
        for (label, number), vector in zip(items, vectors, strict=True):
            writer.write(pack(FeatureRecord(vector, label, f"file:///birds.csv#row={3 * number + label}")))
    counts = ShardCounts(
        file=f"{name}.tfrecord",
        channel=channel,
        records=len(items),
        bytes=writer.bytes,
        by_class={kind: sum(label == index for label, _ in items) for index, kind in enumerate(CLASSES)},
    )
    (folder / f"{name}.json").write_text(counts.model_dump_json())
