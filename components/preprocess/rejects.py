"""What is set aside and why, and when it is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple

import polars

from millrace.errors import DataError

__all__ = ["Reject", "Tally", "is_passing", "read_rejects", "write_rejects"]

_SHOWN = 5
_PASSING = ("missing", "changed")
"""Reasons that need not hold any more the next time."""


class Reject(NamedTuple):
    """An object that is in no record file."""

    uri: str
    reason: str
    """One of a closed set, to count by."""
    detail: str
    """What is wrong with this one."""


def is_passing(reject: Reject) -> bool:
    """Whether the object may be usable the next time, though it is listed as it was."""
    return reject.reason in _PASSING


class Tally:
    """Counts over the worker's whole share, and the end of its patience."""

    def __init__(self, total: int, max_error_rate: float) -> None:
        self.total = total
        """Objects of the share."""
        self.seen = 0
        """Objects so far, rejected ones included."""
        self.rejected = 0
        self._reasons: Counter[str] = Counter()
        self._first: list[Reject] = []
        self._rate = max_error_rate
        self._allowed = ceil(max_error_rate * total - 1e-9)  # 0.1 * 30 is a little more than 3

    def reject(self, reject: Reject) -> None:
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


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write them as a table with the columns uri, reason and detail."""
    schema = dict.fromkeys(Reject._fields, polars.String)
    polars.DataFrame(list(rejects), schema=schema, orient="row").write_parquet(path)


def read_rejects(path: Path) -> Iterator[Reject]:
    """What `write_rejects` wrote."""
    for row in polars.read_parquet(path, columns=list(Reject._fields)).iter_rows():
        yield Reject(*row)
