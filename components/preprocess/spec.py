"""From listed objects to record files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from millrace.data.options import ImageData, TabularData, TextData
from millrace.specs import (
    Analysis,
    Dataset,
    Distribution,
    Inputs,
    Outputs,
    Parameters,
    Records,
    Rejects,
    Resources,
    Shards,
    component,
)
from millrace.specs.earlier import Earlier

__all__ = [
    "ImageData",
    "PreprocessInputs",
    "PreprocessOutputs",
    "PreprocessParameters",
    "Previous",
    "TabularData",
    "TextData",
    "preprocess",
]


class Previous(Parameters):
    """What an earlier run made: shards that have not changed since are taken from it."""

    records: Earlier
    """Its Records artifact: a folder, s3:// or gs://, or `run:ID/TASK` of an earlier local run."""
    rejects: Earlier | None = None
    """Its Rejects artifact; with `run:` it is found by itself."""


class PreprocessParameters(Parameters):
    """What the records hold, and how much of the data may be unusable."""

    data: Annotated[ImageData | TextData | TabularData, Field(discriminator="kind")] = ImageData()
    """What the objects are."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest part of a worker's objects that may be rejected, rounded up to whole objects; 0 allows none."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Objects that are read ahead."""
    previous: Previous | None = None
    """Go on from an earlier run: only shards that changed are made."""


class PreprocessInputs(Inputs):
    """What to read."""

    shards: Shards
    """Which objects go into which record file; a worker takes its share of the files."""
    dataset: Dataset | None = None
    """What was listed, when `manifest` listed the dataset of an earlier task."""
    analysis: Analysis | None = None
    """What `analyze` learnt from the training objects; tables need it, and texts without a `vocabulary`."""


class PreprocessOutputs(Outputs):
    """What was made of it."""

    records: Records
    """A record file a shard, its counts, and the schema."""
    rejects: Rejects
    """A table a shard of the objects that are in no record file."""


preprocess = component(
    name="preprocess",
    version="3",
    description="Make TFRecord files, with counts and a schema, of each shard's pictures, texts or rows.",
    parameters=PreprocessParameters,
    inputs=PreprocessInputs,
    outputs=PreprocessOutputs,
    main="millrace.components.preprocess.main:main",
    image="data",
    resources=Resources(cpus=1, memory_gib=2),
    distribution=Distribution(mode="shards"),
    uncached_when=("previous.records", "previous.rejects", "data.vocabulary"),
)
