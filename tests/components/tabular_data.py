"""Small records of table rows for tests of training and serving: birds, each class with measures of its own."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.runtime.columns import BinnedColumn, CategoryColumn, DateColumn, FittedColumn, HashedColumn, NumericColumn
from millrace.runtime.records import FeatureRecord
from millrace.runtime.schemas import TabularRecords
from millrace.runtime.tabular import row_features
from millrace.testing import write_records
from tests.records import Sizes, numbered

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
    folder: Path, *, train: Sizes = (40, 30, 24), validation: Sizes = (8, 8, 8), test: Sizes = (12, 12, 12)
) -> Path:
    """A Records artifact with that many rows of each class, in two shards a channel."""
    channels = numbered(train, validation, test)
    return write_records(folder, SCHEMA, {name: [_records(file) for file in channels[name]] for name in channels})


def _records(birds: Sequence[tuple[int, int]]) -> Iterator[FeatureRecord]:
    vectors = row_features([bird(*one) for one in birds], SCHEMA)
    for (label, number), vector in zip(birds, vectors, strict=True):
        yield FeatureRecord(vector, label, f"file:///birds.csv#row={3 * number + label}")
