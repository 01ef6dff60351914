"""What belongs together: equal contents and groups, never in two channels."""

from __future__ import annotations

import polars as pl

from millrace.components.manifest.labels import matched
from millrace.components.manifest.rows import Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.errors import DataError

__all__ = ["tie_together"]

_KEPT_FIRST = {"test": 2, "validation": 1, "train": 0}
_CONTENT = pl.col("content")


def tie_together(rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected) -> pl.DataFrame:
    """Add `group` and `unit` (what the split must not part), and set aside duplicates that contradict.

    - The same content under two classes: all are set aside, nobody knows which one is right.
    - The same content in the folders of two channels: the one for testing is kept, then validation, so that
      what is measured stays comparable and training has not seen it.
    - The same content in two groups: the first by key is kept, so that no group is tied to another.

    Args:
        rows: Objects by key, with `content`, `class_label` and `folder`.
        parameters: Group pattern, and what becomes of harmless duplicates.
        rejected: Takes what is set aside.

    Raises:
        DataError: When a group lies in the folders of two channels.
    """
    labels = pl.col("class_label").unique().sort().implode().over(_CONTENT)
    conflict = pl.format("the same content is labelled {}", labels.list.join(", "))
    rows = rejected.take(
        rows, pl.col("class_label").n_unique().over(_CONTENT) > 1, "duplicate_with_other_label", conflict
    )
    rank = pl.col("folder").replace_strict(_KEPT_FIRST, default=0, return_dtype=pl.Int8)
    best = rank.max().over(_CONTENT)
    kept = best.replace_strict({number: name for name, number in _KEPT_FIRST.items()}, return_dtype=pl.String)
    detail = pl.format("the same content is in the channel {}", kept)
    rows = rejected.take(rows, rank < best, "duplicate_across_channels", detail)
    rows = _grouped(rows, parameters.split.group, rejected)
    if parameters.duplicates == "drop":
        first = pl.col("uri").first().over(_CONTENT)
        rows = rejected.take(rows, pl.col("uri") != first, "duplicate", pl.format("the same content as {}", first))
    return rows


def _grouped(rows: pl.DataFrame, pattern: str | None, rejected: Rejected) -> pl.DataFrame:
    groups = matched(rows["key"], pattern, "group") if pattern else [None] * rows.height
    rows = rows.with_columns(pl.Series("group", groups, dtype=pl.String))
    own = pl.format("group:{}", pl.col("group"))
    rows = rows.with_columns(pl.coalesce(own, pl.format("content:{}", _CONTENT)).alias("unit"))
    first = pl.col("unit").first().over(_CONTENT)
    detail = pl.format("the same content is in {}", first)
    rows = rejected.take(rows, pl.col("unit") != first, "duplicate_across_groups", detail)
    channels = rows.group_by("unit").agg(pl.col("folder").fill_null("no channel's").unique().sort())
    parted = channels.filter(pl.col("folder").list.len() > 1).sort("unit")
    if parted.height:
        unit, folders = parted.row(0)
        raise DataError(
            f"{unit} lies in the folders of {' and '.join(folders)}, and so do {parted.height - 1} more groups: "
            "groups must not be parted; set manifest.split.folders=ignore, or drop manifest.split.group"
        )
    return rows
