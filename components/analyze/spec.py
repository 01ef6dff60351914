"""Learn from the training objects what preprocess applies to all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from millrace.data.options import TabularData, TextData
from millrace.specs import (
    Analysis,
    Dataset,
    Inputs,
    Metric,
    Metrics,
    Outputs,
    Parameters,
    Resources,
    Shards,
    component,
)
from millrace.specs.earlier import Earlier

__all__ = ["AnalyzeInputs", "AnalyzeOutputs", "AnalyzeParameters", "analyze"]


class AnalyzeParameters(Parameters):
    """What the objects are, the same as for `preprocess`; and whether anything is to be learnt."""

    data: Annotated[TextData | TabularData, Field(discriminator="kind")] | None = None
    """Texts get a vocabulary; columns of tables get means, deviations, bins and categories. None, in the pipelines that
    are shipped, takes `preprocess.data`."""
    previous: Earlier | None = None
    """An earlier Analysis, taken as it is, and nothing is learnt anew: a folder, s3:// or gs://, or `run:ID/TASK`."""


class AnalyzeInputs(Inputs):
    """What to read."""

    shards: Shards
    """Of which the training objects are read, and nothing else."""
    dataset: Dataset | None = None
    """What was listed, when `manifest` listed the dataset of an earlier task."""


class AnalyzeOutputs(Outputs):
    """What was learnt."""

    analysis: Analysis
    """`schema.json` of the records to be made; for texts `vocabulary.txt` beside it."""
    metrics: Metrics
    """The numbers below, and tables of what was found."""
    objects: Metric
    """Training objects that were read; none with `previous`."""
    features: Metric
    """Tokens of the vocabulary, or numbers in a row's vector."""
    left_out: Metric
    """Columns of tables of which nothing can be learnt, or texts that can't be read; the log tells which and why."""


analyze = component(
    name="analyze",
    version="1",
    description="Learn a vocabulary, or scales and categories of columns, from the training objects alone.",
    parameters=AnalyzeParameters,
    inputs=AnalyzeInputs,
    outputs=AnalyzeOutputs,
    main="millrace.components.analyze.main:main",
    image="data",
    resources=Resources(cpus=2, memory_gib=4),
    uncached_when=("data.vocabulary", "previous"),
)
