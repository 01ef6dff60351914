"""List objects once: labels, channels, lineage, and what was set aside."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from millrace.specs import (
    Dataset,
    Inputs,
    Manifest,
    Metric,
    Metrics,
    Outputs,
    Parameters,
    Rejects,
    Resources,
    component,
)
from millrace.specs.earlier import Earlier

__all__ = [
    "ColumnLabels",
    "CsvLabels",
    "ImageFormat",
    "InventoryListing",
    "KeysListing",
    "Labels",
    "Listing",
    "ManifestInputs",
    "ManifestOutputs",
    "ManifestParameters",
    "ObjectFormat",
    "PrefixLabels",
    "RegexLabels",
    "Split",
    "StoreListing",
    "TableFormat",
    "manifest",
]

ImageFormat = Literal["bmp", "gif", "jpeg", "png", "webp"]
TableFormat = Literal["csv", "tsv", "parquet", "jsonl"]
ObjectFormat = ImageFormat | TableFormat | Literal["text"]


class PrefixLabels(Parameters):
    """The class is the last folder above the object: `cats` for `2024/cats/7.jpg`."""

    kind: Literal["prefix"] = "prefix"


class RegexLabels(Parameters):
    """The class is what a pattern finds in the object's key."""

    kind: Literal["regex"] = "regex"
    pattern: str
    r"""Regular expression with a group called `label`, searched in the key below the source:
    `(?P<label>[a-z]+)_\d+\.jpg$` for one."""

    @field_validator("pattern")
    @classmethod
    def _has_label(cls, pattern: str) -> str:
        return _with_group(pattern, "label")


class CsvLabels(Parameters):
    """The class is in a table: a CSV file with a header, UTF-8, separated by commas."""

    kind: Literal["csv"] = "csv"
    path: str
    """Key below the source, path or URI of the table. With the input `dataset` it must be a key."""
    object_column: str = "key"
    """Column with the object: its key below the source, or its whole URI."""
    label_column: str = "label"
    """Column with the class."""


class ColumnLabels(Parameters):
    """The class of each row of a table is in one of its columns."""

    kind: Literal["column"] = "column"
    column: str = Field(default="label", min_length=1)
    """Its name."""


Labels = Annotated[PrefixLabels | RegexLabels | CsvLabels | ColumnLabels, Field(discriminator="kind")]


class StoreListing(Parameters):
    """Ask the store, or walk through the folder."""

    kind: Literal["store"] = "store"
    concurrency: int = Field(default=16, ge=1, le=256)
    """Prefixes that are listed at a time."""


class InventoryListing(Parameters):
    """An S3 Inventory report, in CSV or Parquet, instead of a listing: for billions of objects."""

    kind: Literal["inventory"] = "inventory"
    manifest: str = Field(min_length=1, json_schema_extra={"format": "location"})
    """Path or URI of the report's `manifest.json`; its data files are found from there."""


class KeysListing(Parameters):
    """A CSV table of keys instead of a listing."""

    kind: Literal["keys"] = "keys"
    path: str = Field(min_length=1, json_schema_extra={"format": "location"})
    """Path or URI of the table, with a header. Keys are below the source, or whole URIs there. Columns called `size`,
    `etag`, `version` and `modified` are taken when they are there."""
    column: str = Field(default="key", min_length=1)
    """Column with the keys."""


Listing = Annotated[StoreListing | InventoryListing | KeysListing, Field(discriminator="kind")]


class Split(Parameters):
    """How objects are divided among train, validation and test.

    By a hash of the contents (or of the group): the same data gives the same split wherever it lies,
    equal contents are never in two channels, and no object changes its channel when others are added.
    The one exception is what `minimum` moves for a class that is too small.
    """

    train: float = Field(default=0.8, gt=0, le=1)
    """Fraction of each class for training."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each class for early stopping and tuning."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each class for the final evaluation."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives another split."""
    group: str | None = Field(default=None)
    r"""Regular expression with a group called `group`, searched in the key: objects for which it finds the
    same text stay in one channel. `^(?P<group>patient\d+)/` for one."""
    group_column: str | None = Field(default=None, min_length=1)
    """The same for rows of tables: those with the same value in this column stay in one channel."""
    minimum: int = Field(default=1, ge=0)
    """Fewest objects of each class in each channel whose fraction is not 0. Where the hash gives fewer,
    those with the nearest hashes are moved; it is an error when the class has too few."""
    folders: Literal["auto", "ignore"] = "auto"
    """auto: `train`, `training`, `val`, `valid`, `validation`, `dev`, `test`, `testing` (in any case) at the first
    level below the source are channels, and so are tables with such a name (`train.csv`,
    `test-00000-of-00002.parquet`); one that is missing is split off train. ignore: they are names as any other."""

    @field_validator("group")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else _with_group(pattern, "group")

    @model_validator(mode="after")
    def _whole(self) -> Split:
        if self.group is not None and self.group_column is not None:
            raise ValueError("group searches keys and group_column names a column: give one of the two")
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, they add up to {total:g}")
        return self


class ManifestParameters(Parameters):
    """What to list and how to label and divide it."""

    source: str | None = Field(
        default=None, min_length=1, json_schema_extra={"format": "location", "or_input": "dataset"}
    )
    """A folder, `s3://bucket/prefix` or `gs://bucket/prefix`. Not together with the input `dataset`."""
    labels: Labels = Field(default=PrefixLabels())
    """Where an object's class comes from."""
    split: Split = Field(default=Split())
    """How objects are divided among the channels."""
    include: tuple[str, ...] = ("*",)
    """Keys to take: shell patterns against the whole key, where `*` also stands for `/`."""
    exclude: tuple[str, ...] = ()
    """Keys to leave out, as `include`; they are not counted as rejected."""
    formats: tuple[ObjectFormat, ...] = Field(default=("bmp", "gif", "jpeg", "png", "webp"))
    """What to take. Pictures, by content whatever the name says; `text`: files in UTF-8, each an object; or tables
    (csv, tsv, parquet, jsonl) by the ending of the name, of which each row is an object. With none given every content
    is taken."""
    contents: Literal["read", "listed"] = "read"
    """read: every object once, for its SHA-256, by which equal contents are found, and its format. listed: no object
    is read; equal contents are those of the same ETag and size, and formats are told when records are made. For many
    millions of objects."""
    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Columns of tables by which equal rows are found; None takes all but those of label and group. A change of any
    other column is still seen by `previous` and by the tasks that read the rows."""
    classes: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The classes in their order; objects with another label are rejected. None takes all labels, sorted."""
    listing: Listing = Field(default=StoreListing())
    """Where the list of objects comes from."""
    previous: Earlier | None = None
    """An earlier Manifest of the same source: a folder, s3:// or gs://, or `run:ID/TASK` of an earlier local run. Only
    what is new or changed since is read, and every object keeps its channel."""
    max_megabytes: float = Field(default=256, gt=0)
    """Larger objects are rejected unread; tables may have any size."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Objects with the same contents and class: keep all (in one channel), or only the first by key."""
    conflicts: Literal["reject", "keep"] = "reject"
    """Objects with the same contents and different classes: set all aside, or keep all (in one channel), as is usual
    for rows of few columns."""
    entries: int = Field(default=1_000_000, ge=1)
    """Most entries of one S3 manifest file; a channel with more has several."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Objects read at a time."""

    @property
    def of_tables(self) -> bool:
        """Whether the objects are rows of tables."""
        return bool(self.formats) and set(self.formats) <= set(get_args(TableFormat))

    @model_validator(mode="after")
    def _of_one_kind(self) -> ManifestParameters:
        tables = [name for name in self.formats if name in get_args(TableFormat)]
        if tables and not self.of_tables:
            raise ValueError(
                f"formats names tables ({', '.join(tables)}), whose rows are the objects, and others: a manifest is of "
                "one kind; make one manifest for each"
            )
        if tables and self.contents == "listed":
            raise ValueError("contents=listed is for whole objects: the rows of tables are known by reading them only")
        if tables and isinstance(self.labels, CsvLabels):
            raise ValueError("labels.kind=csv names whole objects; rows of tables have labels.kind=column")
        if not tables and isinstance(self.labels, ColumnLabels):
            raise ValueError("labels.kind=column is for rows of tables: set formats to csv, tsv, parquet or jsonl")
        for name, given in (("columns", self.columns), ("split.group_column", self.split.group_column)):
            if given is not None and not tables:
                raise ValueError(f"{name} is for rows of tables: set formats to csv, tsv, parquet or jsonl")
        return self

    @field_validator("classes", "columns")
    @classmethod
    def _once_each(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is named twice")
        return names


class ManifestInputs(Inputs):
    """Nothing, or a dataset made by an earlier task."""

    dataset: Dataset | None = None
    """What to list, in place of `source`. Tasks that read its objects need it, too."""


class ManifestOutputs(Outputs):
    """The lineage table and what was set aside."""

    manifest: Manifest
    """`index.parquet` (a row an object), `classes.json`, and `CHANNEL.manifest` in S3 form, or
    `CHANNEL-IIIII-of-NNNNN.manifest` of a channel with more than `entries`; with `previous` also `changes.parquet`."""
    rejects: Rejects
    """`rejects.parquet`: uri, reason, detail."""
    metrics: Metrics
    """The numbers below, `repaired` (moved for `split.minimum`) and the objects of each channel."""
    objects: Metric
    """Number of objects taken."""
    classes: Metric
    """Number of classes."""
    rejected: Metric
    """Number of objects set aside."""
    duplicates: Metric
    """Number of readable objects with the contents of another one before them."""


manifest = component(
    name="manifest",
    version="3",
    description="List a folder or prefix once: labels, channels and lineage of every object.",
    parameters=ManifestParameters,
    inputs=ManifestInputs,
    outputs=ManifestOutputs,
    main="millrace.components.manifest.main:main",
    image="data",
    resources=Resources(cpus=2, memory_gib=4),
    uncached_when=("source", "previous", "listing.manifest", "listing.path"),
)


def _with_group(pattern: str, group: str) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if group not in compiled.groupindex:
        raise ValueError(f"the pattern needs a group called {group!r}: (?P<{group}>...)")
    return pattern
