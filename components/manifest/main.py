"""List, label, read, divide, write."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from millrace.components.manifest.contents import read_contents
from millrace.components.manifest.duplicates import tie_together
from millrace.components.manifest.labels import (
    channels_below,
    find_channels,
    label_by_pattern,
    label_by_prefix,
    label_by_table,
)
from millrace.components.manifest.listing import Source, list_source
from millrace.components.manifest.rows import Rejected
from millrace.components.manifest.spec import (
    CsvLabels,
    ManifestInputs,
    ManifestOutputs,
    ManifestParameters,
    RegexLabels,
)
from millrace.components.manifest.split import divide
from millrace.errors import ConfigError, DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import CHANNELS

__all__ = ["main"]

_INDEX = (
    "uri",
    "prefix",
    "key",
    "class_label",
    "label",
    "channel",
    "size",
    "etag",
    "version",
    "content",
    "group",
    "dataset_path",
)


def main(parameters: ManifestParameters, inputs: ManifestInputs, outputs: ManifestOutputs, context: Context) -> Result:
    """Make the lineage table of a source."""
    source = _source(parameters, inputs)
    rejected = Rejected()
    rows = list_source(source, parameters, rejected, context)
    rows = _in_channels(rows, parameters, rejected, context)
    rows = _labelled(rows, parameters, source, rejected)
    rows = read_contents(rows, parameters, rejected, context)
    if rows.is_empty():
        raise DataError(
            f"there are no usable objects below {source.place}; set aside: {rejected.summary()}; the first of each:\n"
            f"{rejected.examples()}"
        )
    duplicates = rows.height - rows["content"].n_unique()
    rows = tie_together(rows, parameters, rejected)
    classes = _classes(rows, source.place)
    rows, repaired = divide(rows, parameters.split)
    index = _index(rows, classes, source.prefix)
    _write(outputs, index, classes, rejected)
    counts: dict[str, int] = {name: index.filter(pl.col("channel") == name).height for name in CHANNELS}
    aside = rejected.table().height
    if aside:
        context.log.warning("%d objects set aside: %s", aside, rejected.summary())
    context.log.info("%d objects of %d classes: %s", index.height, len(classes), counts)
    return Result(
        metrics={
            "objects": index.height,
            "classes": len(classes),
            "rejected": aside,
            "duplicates": duplicates,
            "repaired": repaired,
            **counts,
        },
        metadata={"manifest": {"objects": {**counts}, "classes": len(classes)}},
    )


def _source(parameters: ManifestParameters, inputs: ManifestInputs) -> Source:
    needed = "manifest needs its parameter source or its input dataset"
    if parameters.source is not None and inputs.dataset is not None:
        raise ConfigError(f"{needed}, not both: leave source={parameters.source!r} out")
    if inputs.dataset is not None:
        return Source(str(inputs.dataset.path), inputs.dataset.uri, dataset=True)
    if parameters.source is None:
        raise ConfigError(f"{needed}: set manifest.source to a folder, s3://bucket/prefix or gs://bucket/prefix")
    return Source(parameters.source)


def _in_channels(
    rows: pl.DataFrame, parameters: ManifestParameters, rejected: Rejected, context: Context
) -> pl.DataFrame:
    """Add `folder`, the channel an object's folder stands for.

    Raises:
        DataError: When such folders lie one level too deep: to mix them would be a leak that nobody sees.
    """
    if parameters.split.folders == "ignore":
        return rows.with_columns(pl.lit(None, dtype=pl.String).alias("folder"))
    rows = find_channels(rows, parameters.labels)
    found = sorted(rows["folder"].drop_nulls().unique().to_list())
    if found:
        context.log.info("channels that have folders: %s", ", ".join(found))
    elif (below := channels_below(rows)) is not None:
        raise DataError(
            f"folders of channels are in {below}/, they count only directly below the source: set manifest.source to "
            f"that folder, or manifest.split.folders=ignore to divide all objects anew"
        )
    if "train" not in found:
        return rows
    return rejected.take(
        rows, pl.col("folder").is_null(), "outside_channels", "it lies beside the folders train, validation and test"
    )


def _labelled(rows: pl.DataFrame, parameters: ManifestParameters, source: Source, rejected: Rejected) -> pl.DataFrame:
    labels = parameters.labels
    if isinstance(labels, RegexLabels):
        return label_by_pattern(rows, labels, rejected)
    if isinstance(labels, CsvLabels):
        return label_by_table(rows, labels, source.place, rejected, inside=source.dataset)
    return label_by_prefix(rows, rejected)


def _classes(rows: pl.DataFrame, source: str) -> tuple[str, ...]:
    classes = tuple(sorted(rows["class_label"].unique().to_list()))
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class"
        raise DataError(
            f"there is {found} below {source}; at least 2 are needed, each in a folder of its own "
            "(or set manifest.labels)"
        )
    return classes


def _index(rows: pl.DataFrame, classes: tuple[str, ...], prefix: str) -> pl.DataFrame:
    numbers = {name: number for number, name in enumerate(classes)}
    label = pl.col("class_label").replace_strict(numbers, return_dtype=pl.Int64).alias("label")
    return rows.with_columns(label, pl.lit(prefix).alias("prefix")).select(_INDEX).sort("key", "uri")


def _write(outputs: ManifestOutputs, index: pl.DataFrame, classes: tuple[str, ...], rejected: Rejected) -> None:
    folder = outputs.manifest.path
    index.write_parquet(folder / "index.parquet", compression="zstd")
    _write_json(folder / "classes.json", {"classes": classes})
    prefix = index["prefix"][0]
    for name in CHANNELS:
        uris = index.filter(pl.col("channel") == name)["uri"]
        _write_json(folder / f"{name}.manifest", [{"prefix": prefix}, *(uri.removeprefix(prefix) for uri in uris)])
    table = rejected.table().select("uri", "reason", "detail")
    table.write_parquet(outputs.rejects.path / "rejects.parquet", compression="zstd")


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",\n", ": "))
    path.write_text(f"{text}\n", encoding="utf-8")
