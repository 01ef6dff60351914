"""A model's answers about many records as tables, and what of them is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millrace.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["AnswerWriter", "Confusion", "answer_files", "answer_table", "confusions"]

_RECORDS = 65_536
_PROBABILITIES = 2**22
"""Of a part: 16 MiB."""
_ANSWERS = "answers-*.parquet"


class Confusion(NamedTuple):
    """Records of one class that were taken for another."""

    true: str
    predicted: str
    records: int
    uris: tuple[str, ...]
    """Of the most confident ones."""


class AnswerWriter:
    """Writes answers to `answers-NNNNN.parquet`, part after part; memory holds one.

    The columns are those of an answer over HTTP, `label`, `index` and `probabilities`, and `probability` (of `label`),
    between `uri` and `true_label`, `true_index`, `right`. Use it in a `with` block.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._classes = list(classes)
        self._most = max(1, min(_RECORDS, _PROBABILITIES // len(classes)))
        self._parts = 0
        self._empty()

    def _empty(self) -> None:
        self._uris: list[bytes] = []
        self._labels: list[NDArray[np.int64]] = []
        self._probabilities: list[NDArray[np.float32]] = []

    def add(self, uris: Sequence[bytes], labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> None:
        """Append the answers about a batch.

        Args:
            uris: Of the records, UTF-8.
            labels: Their true classes [N].
            probabilities: [N, classes].

        Raises:
            OSError: When the disk is full.
        """
        begin = 0
        while begin < len(uris):
            end = begin + self._most - len(self._uris)
            self._uris.extend(uris[begin:end])  # they may come as an array, to which += would add
            self._labels.append(labels[begin:end])
            self._probabilities.append(probabilities[begin:end])
            if len(self._uris) == self._most:
                self._write()
            begin = end

    def _write(self) -> None:
        import polars as pl

        names = pl.Series(self._classes, dtype=pl.String)
        labels, probabilities = np.concatenate(self._labels), np.concatenate(self._probabilities)
        index = probabilities.argmax(axis=1)
        part = pl.DataFrame(
            {
                "uri": pl.Series([uri.decode("utf-8", "replace") for uri in self._uris], dtype=pl.String),
                "label": names.gather(index),
                "index": pl.Series(index, dtype=pl.Int64),
                "probability": probabilities.max(axis=1),
                "probabilities": pl.Series(probabilities).arr.to_list(),
                "true_label": names.gather(labels),
                "true_index": pl.Series(labels, dtype=pl.Int64),
                "right": index == labels,
            }
        )
        content = BytesIO()  # a full disk then is an OSError, which polars makes something else of
        part.write_parquet(content, compression="zstd")
        (self._folder / _ANSWERS.replace("*", f"{self._parts:05d}")).write_bytes(content.getbuffer())
        self._parts += 1
        self._empty()

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._uris:
            self._write()


def answer_files(folder: Path) -> list[Path]:
    """The parts of a table of answers, in order; none where a Predictions artifact has a file for each object."""
    return sorted(folder.glob(_ANSWERS))


def answer_table(folder: Path) -> pl.LazyFrame:
    """The answers that an `AnswerWriter` wrote, in its order.

    Raises:
        DataError: When there are none.
    """
    import polars as pl

    files = answer_files(folder)
    if not files:
        raise DataError(f"{folder} has no answers: {_ANSWERS} is missing")
    return pl.scan_parquet(files, glob=False)


def confusions(answers: pl.LazyFrame, *, pairs: int, uris: int) -> list[Confusion]:
    """Which classes were taken for which, the most frequent first.

    Args:
        answers: As `answer_table` gives them.
        pairs: Most pairs of classes.
        uris: Most URIs of each.
    """
    import polars as pl

    wrong = answers.filter(~pl.col("right")).select("uri", "probability", "true_label", "label", "true_index", "index")
    found = (
        wrong.sort("probability", descending=True, maintain_order=True)
        .group_by("true_index", "index", maintain_order=True)
        .agg(pl.col("true_label", "label").first(), records=pl.len(), uri=pl.col("uri").head(uris))
        .sort("records", "true_index", "index", descending=[True, False, False])
        .head(pairs)
        .select("true_label", "label", "records", "uri")
        .collect()
    )
    return [Confusion(true, predicted, records, tuple(some)) for true, predicted, records, some in found.iter_rows()]
