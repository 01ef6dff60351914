"""From listed objects to record files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.specs import (
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

__all__ = ["ImageData", "PreprocessInputs", "PreprocessOutputs", "PreprocessParameters", "preprocess"]


class ImageData(Parameters):
    """Pictures: JPEG, PNG, WebP, GIF and BMP, all brought to one size."""

    kind: Literal["image"] = "image"
    """What the objects are; the choice of the other fields goes with it."""
    height: int = Field(default=224, ge=1, le=8192)
    """Pixels."""
    width: int = Field(default=224, ge=1, le=8192)
    """Pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    encoding: Literal["jpeg", "png", "raw"] = "jpeg"
    """Form of the pictures in the records: jpeg is small, png small and exact, raw fastest to read."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpeg: 1 is smallest, 100 nearest to the source."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """crop: cover the size, keep the middle; pad: fit into it, add black edges; stretch: change the aspect ratio."""
    max_pixels: int = Field(default=89_478_485, ge=1, le=178_956_970)
    """Pictures with more are rejected by their header, before they are decoded."""


class PreprocessParameters(Parameters):
    """What the records hold, and how much of the data may be unusable."""

    data: ImageData = ImageData()
    """What the objects are."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest part of a worker's objects that may be rejected, rounded up to whole objects; 0 allows none."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Objects that are read ahead."""


class PreprocessInputs(Inputs):
    """What to read."""

    shards: Shards
    """Which objects go into which record file; a worker takes its share of the files."""
    dataset: Dataset | None = None
    """What was listed, when `manifest` listed the dataset of an earlier task."""


class PreprocessOutputs(Outputs):
    """What was made of it."""

    records: Records
    """A record file a shard, its counts, and the schema."""
    rejects: Rejects
    """A table a shard of the objects that are in no record file."""


preprocess = component(
    name="preprocess",
    version="2",
    description="Decode, resize and re-encode each shard's objects into TFRecord files with counts and a schema.",
    parameters=PreprocessParameters,
    inputs=PreprocessInputs,
    outputs=PreprocessOutputs,
    main="millrace.components.preprocess.main:main",
    image="data",
    resources=Resources(cpus=1, memory_gib=2),
    distribution=Distribution(mode="shards"),
)
