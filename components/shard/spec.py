"""Deal a manifest's objects into balanced shards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from millrace.specs import Inputs, Manifest, Metric, Metrics, Outputs, Parameters, Resources, Shards, component
from millrace.specs.earlier import Earlier

__all__ = ["ChannelShards", "ShardInputs", "ShardOutputs", "ShardParameters", "shard"]

Count = Annotated[int, Field(ge=1, le=99_999)]


class ChannelShards(Parameters):
    """Another number of shards for each channel."""

    train: Count = Field(default=2)
    """Shards of the training objects."""
    validation: Count = Field(default=1)
    """Shards of the validation objects."""
    test: Count = Field(default=1)
    """Shards of the test objects."""


class ShardParameters(Parameters):
    """How many shards, and in which order their objects come."""

    shards: Count | ChannelShards = Field(default=2)
    """Shards of each channel: one number for all, or `train`, `validation` and `test` apart."""
    order: Literal["shuffled", "listing"] = "shuffled"
    """Order of the objects inside a shard. listing: by key, so that classes come one after the other; a shard of rows
    of tables is then a block of them, so that few tables are read for it, and numbers may differ where bytes do not."""
    seed: int = Field(default=0, ge=0)
    """Of the shuffling."""
    previous: Earlier | None = None
    """Earlier Shards of the same source: a folder, s3:// or gs://, or `run:ID/TASK` of an earlier local run. Objects
    stay in their shards, in their order, whatever `shards`, `order` and `seed` say (a warning tells of other values);
    new ones get shards of their own, of about the same bytes: those that have not changed need no preprocessing."""


class ShardInputs(Inputs):
    """A manifest."""

    manifest: Manifest
    """What to deal out."""


class ShardOutputs(Outputs):
    """The shards and how even they are."""

    shards: Shards
    """`plan.json`, and for each shard its manifest in S3 form and its rows of the lineage table."""
    metrics: Metrics
    """The numbers below."""
    objects: Metric
    """Number of objects in all shards."""
    imbalance: Metric
    """Bytes of a channel's largest shard over the mean of its shards, less 1; the worst channel's."""


shard = component(
    name="shard",
    version="2",
    description="Deal a manifest's objects into shards of equal number and nearly equal bytes.",
    parameters=ShardParameters,
    inputs=ShardInputs,
    outputs=ShardOutputs,
    main="millrace.components.shard.main:main",
    image="data",
    resources=Resources(cpus=1, memory_gib=4),
    uncached_when=("previous",),
)
