"""Rows of tables as features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars

from millrace.components.preprocess.kinds import in_order
from millrace.components.preprocess.rejects import Reject
from millrace.components.preprocess.spec import PreprocessInputs, PreprocessParameters, TabularData
from millrace.data.analysis import read_analysis
from millrace.data.rows import FoundRows, LostRows, read_rows
from millrace.errors import ConfigError
from millrace.runtime.context import Context
from millrace.runtime.records import FeatureRecord, pack
from millrace.runtime.schemas import ShardPlan, TabularRecords
from millrace.runtime.tabular import Featurizer

__all__ = ["open_tables"]

_VALUES = 4_000_000  # features that are made at a time


def open_tables(
    parameters: PreprocessParameters, inputs: PreprocessInputs, plan: ShardPlan, context: Context
) -> _Tables:
    """Rows of tables as `analyze` learnt to take them.

    Raises:
        ConfigError: When there is no analysis, or it was made with other options.
    """
    data = parameters.data
    if not isinstance(data, TabularData):
        raise ConfigError(f"preprocess.data.kind {data.kind!r} is not tabular")
    if inputs.analysis is None:
        raise ConfigError("rows of tables need the analysis of analyze: give preprocess its output as `analysis`")
    return _Tables(read_analysis(inputs.analysis.path, data, plan.classes, TabularRecords), plan, context)


class _Tables:
    unit = "rows"

    def __init__(self, schema: TabularRecords, plan: ShardPlan, context: Context) -> None:
        self.schema = schema
        self._plan = plan
        self.files: Mapping[str, bytes] = {}
        self._context = context
        self._names = list(dict.fromkeys(column.name for column in schema.columns))
        self._featurizer = Featurizer(schema.columns)
        self._step = max(_VALUES // schema.shape[0], 1)

    def convert(self, rows: polars.DataFrame) -> Iterator[bytes | Reject]:
        """In memory are the records of a shard: rows are read in the order of their files."""
        whole = rows.filter(polars.col("row").is_null())
        if whole.height:
            raise ConfigError(
                f"{whole['uri'][0]} is no row of a table: preprocess.data.kind=tabular needs rows of tables"
            )
        return in_order(self._made(rows))

    def _made(self, rows: polars.DataFrame) -> Iterator[tuple[int, bytes | Reject]]:
        uris, labels = rows["uri"].to_list(), rows["label"].to_list()
        for found in read_rows(rows, self._names, self._plan, self._context.scratch):
            if isinstance(found, LostRows):
                yield from ((at, Reject(uris[at], found.reason, found.detail)) for at in found.places.tolist())
            else:
                yield from self._records(found, uris, labels)

    def _records(self, found: FoundRows, uris: list[str], labels: list[int]) -> Iterator[tuple[int, bytes | Reject]]:
        for start in range(0, found.frame.height, self._step):
            values, flaws = self._featurizer.of_table(found.frame[start : start + self._step])
            wrong = {flaw.row: flaw for flaw in reversed(flaws)}
            for row, at in enumerate(found.places[start : start + self._step].tolist()):
                if row in wrong:
                    detail = f"column {wrong[row].column!r}: {wrong[row].problem}"
                    yield at, Reject(uris[at], "bad_value", detail)
                else:
                    yield at, pack(FeatureRecord(values[row].tolist(), labels[at], uris[at]))
