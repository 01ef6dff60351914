"""One pass over the training objects; what is learnt does not depend on their order."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from millrace.components.analyze.columns import analyze_columns
from millrace.components.analyze.earlier import keep_analysis
from millrace.components.analyze.spec import AnalyzeInputs, AnalyzeOutputs, AnalyzeParameters
from millrace.components.analyze.vocabulary import analyze_texts
from millrace.data.options import TabularData
from millrace.data.rows import objects_of
from millrace.errors import ConfigError, DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import ShardPlan, read_json_model

__all__ = ["main"]


def main(parameters: AnalyzeParameters, inputs: AnalyzeInputs, outputs: AnalyzeOutputs, context: Context) -> Result:
    """Learn from the training objects what `preprocess` applies to all.

    Raises:
        ConfigError: When objects are in a dataset that is not given, options name columns that are not there, or an
            earlier analysis does not fit.
        DataError: When the objects can't be read, or there is nothing to learn.
    """
    plan = read_json_model(inputs.shards.path / "plan.json", ShardPlan)
    if parameters.data is None:
        raise ConfigError("analyze.data is needed: kind, text or tabular, and its options, the same as preprocess.data")
    if parameters.previous is not None:
        return keep_analysis(parameters.previous, parameters.data, plan, inputs, outputs, context)
    objects = _training(inputs, plan)
    if isinstance(parameters.data, TabularData):
        return analyze_columns(parameters.data, plan, objects, outputs, context)
    return analyze_texts(parameters.data, plan, objects, outputs, context)


def _training(inputs: AnalyzeInputs, plan: ShardPlan) -> pl.DataFrame:
    """The training objects, by URI: how they were dealt out changes nothing."""
    files: list[Path] = [inputs.shards.path / "shards" / shard.file for shard in plan.shards.get("train", ())]
    lacking = [file.name for file in files if not file.exists()]
    if lacking or not files:
        what = f"lacks {lacking[0]}" if lacking else "has no training shards"
        raise DataError(f"{inputs.shards.path} {what}; give the whole output of the shard component")
    return pl.concat([objects_of(file, inputs.dataset, "analyze") for file in files]).sort("place", "row", "uri")
