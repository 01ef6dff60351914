"""What belongs together: equal contents and groups, never in two channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.earlier import Known
from millrace.components.manifest.objects import NOWHERE, Objects
from millrace.components.manifest.pins import content_pins
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.errors import DataError
from millrace.runtime.schemas import CHANNELS

__all__ = ["fixed_channels", "tie_together"]

_TEST, _VALIDATION = CHANNELS.index("test"), CHANNELS.index("validation")


def fixed_channels(objects: Objects) -> list[int]:
    """Channels, but train, that have folders of their own."""
    return [int(code) for code in np.unique(objects.folder[objects.inside]) if code > 0]


def tie_together(
    objects: Objects,
    known: Known | None,
    names: Sequence[str],
    parameters: ManifestParameters,
    rejected: Rejected,
) -> int:
    """Set aside what contradicts, so that no content and no group has two channels.

    - The same content under two classes: all are set aside, nobody knows which one is right, unless they are kept.
    - The same content in the folders of two channels: the one for testing is kept, then validation, so that
      what is measured stays comparable and training has not seen it.
    - The same content in two groups: the first by key is kept, so that no group is tied to another. What an earlier
      manifest knows comes before all others.

    Args:
        objects: Marked in place.
        known: What an earlier manifest knows of them.
        names: Of classes.
        parameters: What becomes of harmless duplicates.
        rejected: Takes what is set aside.

    Returns:
        How many objects have the content of one before them.

    Raises:
        DataError: When a group lies in the folders of two channels.
    """
    positions, extra = _repeated(objects)
    rows = _described(objects, positions, known)
    if parameters.conflicts == "reject":
        rows = _without_conflicts(objects, rows, names, rejected)
    best = pl.col("rank").max().over("content")
    kept = pl.when(best == 2).then(pl.lit("test")).otherwise(pl.lit("validation"))
    detail = pl.format("the same content is in the channel {}", kept)
    rows = _take(objects, rows, pl.col("rank") < best, detail, "duplicate_across_channels", rejected)
    first = pl.col("position").sort_by("new", "position").first().over("content")
    rows = rows.with_columns(other=first)
    if objects.group is not None:
        own = pl.col("unit").sort_by("new", "position").first().over("content")
        told = pl.lit("the same content is in another group, that of {}")
        rows = _take(objects, rows, pl.col("unit") != own, told, "duplicate_across_groups", rejected)
        _check_groups(objects, objects.group)
    if parameters.duplicates == "drop":
        told = pl.lit("the same content as {}")
        _take(objects, rows, pl.col("position") != pl.col("other"), told, "duplicate", rejected)
    return extra


def _repeated(objects: Objects) -> tuple[NDArray[np.int64], int]:
    """Positions of objects whose content comes more than once, rising, and how many come after the first."""
    inside = np.flatnonzero(objects.inside)
    order = np.argsort(objects.content[inside], kind="stable")
    ordered = objects.content[inside[order]]
    again = np.zeros(len(ordered), np.bool_)
    again[1:] = ordered[1:] == ordered[:-1]
    member = again.copy()
    member[:-1] |= again[1:]
    return np.sort(inside[order[member]]), int(again.sum())


def _described(objects: Objects, positions: NDArray[np.int64], known: Known | None) -> pl.DataFrame:
    content = objects.content[positions]
    home = objects.folder[positions]
    new = np.ones(len(positions), np.bool_)
    if known is not None:
        before = known.before[positions]
        fixed = fixed_channels(objects)
        kept = content_pins(known.earlier, content, before, fixed)
        home = np.where(np.isin(home, fixed), home, kept)
        new = (before < 0) | (before >= known.earlier.taken)
    rank = np.select([home == _TEST, home == _VALIDATION], [2, 1], 0)
    label, unit = objects.label[positions], objects.units()[positions]
    return pl.DataFrame(
        {"position": positions, "content": content, "label": label, "unit": unit, "rank": rank, "new": new}
    )


def _without_conflicts(objects: Objects, rows: pl.DataFrame, names: Sequence[str], rejected: Rejected) -> pl.DataFrame:
    contrary = rows.filter(pl.col("label").n_unique().over("content") > 1)
    if contrary.is_empty():
        return rows
    named = pl.Series("name", names, dtype=pl.String)
    told = contrary.select("content", name=named[contrary["label"]]).unique().sort("name")
    told = told.group_by("content").agg(
        detail=pl.format("the same content is labelled {}", pl.col("name").str.join(", "))
    )
    contrary = contrary.join(told, on="content", maintain_order="left")
    rejected.take_out(objects, contrary.select("position", pl.col("detail")), "duplicate_with_other_label")
    return rows.filter(~pl.col("position").is_in(contrary["position"].implode()))


def _take(
    objects: Objects, rows: pl.DataFrame, where: pl.Expr, detail: pl.Expr, reason: str, rejected: Rejected
) -> pl.DataFrame:
    judged = rows.with_columns(bad=where, detail=detail)
    columns = [name for name in ("position", "other", "detail") if name in judged.columns]
    aside = judged.filter("bad").select(columns)
    if aside.height:
        rejected.take_out(objects, aside, reason)
    return judged.filter(~pl.col("bad")).drop("bad", "detail")


def _check_groups(objects: Objects, groups: NDArray[np.uint64]) -> None:
    grouped = np.flatnonzero(objects.inside & (groups != 0))
    pairs = pl.DataFrame({"group": groups[grouped], "folder": objects.folder[grouped], "position": grouped})
    pairs = pairs.group_by("group", "folder").agg(pl.col("position").first())
    parted = pairs.filter(pl.len().over("group") > 1).sort("position")
    if parted.is_empty():
        return
    first = parted.filter(pl.col("group") == parted["group"][0])
    group = objects.parts.pick(first["position"].to_numpy()[:1], ("group",))["group"][0]
    folders = sorted("no channel's" if code == NOWHERE else CHANNELS[code] for code in first["folder"])
    raise DataError(
        f"group:{group} lies in the folders of {' and '.join(folders)}, and so do {parted['group'].n_unique() - 1} "
        "more groups: groups must not be parted; set manifest.split.folders=ignore, or drop manifest.split.group"
    )
