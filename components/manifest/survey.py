"""List all objects with their classes, groups and folders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.components.manifest.channels import ChannelNames
from millrace.components.manifest.hashes import hash_listed, hash_texts
from millrace.components.manifest.labels import Labels, matched
from millrace.components.manifest.listing import LISTED, Source, list_source
from millrace.components.manifest.objects import Names, Objects
from millrace.components.manifest.parts import Parts
from millrace.components.manifest.rejected import Rejected
from millrace.components.manifest.spec import ManifestParameters
from millrace.runtime.context import Context

__all__ = ["KEPT", "gathered", "survey"]

KEPT = {**LISTED, "place": pl.String(), "dataset_path": pl.String(), "group": pl.String()}
"""Columns of listed objects on disk."""


def survey(
    source: Source, parameters: ManifestParameters, names: Names, rejected: Rejected, context: Context
) -> Objects:
    """All objects of a source that have a class, or the tables whose rows will have one.

    Raises:
        DataError: When there is nothing, or folders or labels contradict each other.
    """
    parts = Parts(context.scratch / "listed")
    channels = ChannelNames(parameters)
    labels = Labels(parameters, source, rejected)
    numbers: list[pl.DataFrame] = []
    shallow: list[NDArray[np.bool_]] = []
    for batch in list_source(source, parameters, rejected, context):
        rows = labels.tell(channels.see(batch))
        if rows.is_empty():
            continue
        rows = rows.with_columns(_groups(rows, parameters.split.group))
        if parameters.contents == "listed":  # else they are known when the object is read
            rows = rows.with_columns(pl.col("size").fill_null(0))
        parts.add(rows.select(*KEPT))
        numbers.append(_numbers(rows, parameters, names))
        shallow.append(rows["depth"].to_numpy() == 1)
    labels.end()
    objects = gathered(parts, numbers)
    channels.settle(objects, np.concatenate(shallow or [np.zeros(0, np.bool_)]), rejected, context)
    return objects


def gathered(parts: Parts, numbers: Sequence[pl.DataFrame]) -> Objects:
    """Objects of whose numbers there are tables, part by part: label, folder, content, perhaps group and row_digest."""
    schema = {"label": pl.Int32, "folder": pl.Int8, "content": pl.UInt64}
    whole = pl.concat(numbers) if numbers else pl.DataFrame(schema=schema)
    return Objects(
        parts=parts,
        label=whole["label"].to_numpy(writable=True),
        folder=whole["folder"].to_numpy(writable=True),
        content=whole["content"].to_numpy(writable=True),
        group=whole["group"].to_numpy(writable=True) if "group" in whole.columns else None,
        row_digest=whole["row_digest"].to_numpy() if "row_digest" in whole.columns else None,
        inside=np.ones(whole.height, np.bool_),
    )


def _groups(rows: pl.DataFrame, pattern: str | None) -> pl.Series:
    found = matched(rows["key"], pattern, "group") if pattern else [None] * rows.height
    return pl.Series("group", found, dtype=pl.String)


def _numbers(rows: pl.DataFrame, parameters: ManifestParameters, names: Names) -> pl.DataFrame:
    listed = parameters.contents == "listed"
    content = hash_listed(rows) if listed else np.zeros(rows.height, np.uint64)
    group = {} if parameters.split.group is None else {"group": hash_texts(rows["group"])}
    return pl.DataFrame(
        {"label": names.numbers(rows["class_label"]), "folder": rows["folder"], "content": content, **group}
    )
