"""What the frame needs to know of a kind of data, and where each kind is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Protocol, cast

import polars

from millrace.components.preprocess.rejects import Reject
from millrace.components.preprocess.spec import PreprocessInputs, PreprocessParameters
from millrace.runtime.context import Context
from millrace.runtime.schemas import ImageRecords, ShardPlan, TabularRecords, TextRecords

__all__ = ["Kind", "in_order", "open_kind"]

_KINDS = {
    "image": "millrace.components.preprocess.pictures:open_pictures",
    "text": "millrace.components.preprocess.texts:open_texts",
    "tabular": "millrace.components.preprocess.tables:open_tables",
}


class Kind(Protocol):
    """Makes records of one kind of object. Used for all shards of a worker, one after the other."""

    @property
    def schema(self) -> ImageRecords | TextRecords | TabularRecords:
        """What the record files hold."""
        ...

    @property
    def unit(self) -> str:
        """Of progress: images, texts, rows."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Contents of the files beside `schema.json`, by name."""
        ...

    def convert(self, rows: polars.DataFrame) -> Iterator[bytes | Reject]:
        """One serialized record, or why there is none, for each row of a shard's table, in their order.

        Args:
            rows: Columns of the lineage table: uri, key, label, content, size, etag, version and row, null where
                they are not known, and `place`, where the object is read, or the file of a row. There is a row
                at least.

        Raises:
            Exception: What is no fault of an object's: the store is down, or reading is not allowed any more.
        """
        ...


class _Open(Protocol):
    def __call__(
        self, parameters: PreprocessParameters, inputs: PreprocessInputs, plan: ShardPlan, context: Context
    ) -> Kind: ...


def open_kind(parameters: PreprocessParameters, inputs: PreprocessInputs, plan: ShardPlan, context: Context) -> Kind:
    """The kind that `preprocess.data` names; only its module is loaded."""
    module, _, name = _KINDS[parameters.data.kind].partition(":")
    return cast(_Open, getattr(import_module(module), name))(parameters, inputs, plan, context)


def in_order(made: Iterable[tuple[int, bytes | Reject]]) -> Iterator[bytes | Reject]:
    """What was made of rows, in their order, when they come file by file; what is early waits in memory.

    Args:
        made: Each with the number of its row, from 0; every number comes once.
    """
    early: dict[int, bytes | Reject] = {}
    following = 0
    for number, record in made:
        early[number] = record
        while following in early:
            yield early.pop(following)
            following += 1
